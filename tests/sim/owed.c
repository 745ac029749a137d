/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Post-copy in the simulation: which pages the target lacks, how they follow, and what must hold of them.
 *
 * A page is a token, absent or present at the target. Absent ones are known from the stop on (the list is
 * sent with the state) and outlive the target's daemon, as the page states and the VMM's userfaultfd do.
 * They come over the demand channel as long as both daemons live and the source's image can be read.
 */
#include "world.h"

#define PAGES 3
#define PAGE_OF_STATE 1u /* loading the device state touches it */
#define PAGE_OF_START 2u /* starting the guest does, before the VMM can say that it runs */

static bool vm_lives(enum sim_vm vm)
{
	return vm == VM_PART || vm == VM_PAUSED || vm == VM_RUNS;
}

void sim_owe_pages(struct sim_world *w)
{
	if (!w->postcopy)
		return;
	w->absent = sim_below(&w->rng, 1u << PAGES);
	w->demand = w->link_up && w->b_up;
}

bool sim_lacks_pages(const struct sim_world *w)
{
	return w->absent && vm_lives(w->vm_b);
}

bool sim_state_can_load(const struct sim_world *w)
{
	return !(w->absent & PAGE_OF_STATE);
}

bool sim_guest_can_start(const struct sim_world *w)
{
	return !(w->absent & PAGE_OF_START);
}

/* Before the guest runs only what is asked for comes, or everything. */
static unsigned wanted(const struct sim_world *w)
{
	if (w->vm_b == VM_RUNS || w->unasked)
		return (1u << PAGES) - 1;
	return w->b_starting ? PAGE_OF_START : PAGE_OF_STATE;
}

bool sim_can_page_come(const struct sim_world *w)
{
	return w->a_up && w->b_up && w->demand && w->image_a && sim_lacks_pages(w) && (w->absent & wanted(w));
}

void sim_page_comes(struct sim_world *w)
{
	unsigned page;

	do
		page = 1u << sim_below(&w->rng, PAGES);
	while (!(w->absent & wanted(w) & page));
	w->absent &= ~page;
	w->b_complete = !w->absent;
}

/* The image at the source goes while it is needed: nothing can bring that back. Nor can it be helped when the
 * target has become whole meanwhile, but its word that it was not is still on its way. */
void sim_lose_image(struct sim_world *w)
{
	bool undecided = w->visible != REC_COMMIT || w->durable != REC_COMMIT;

	w->image_a = false;
	w->a_died_fatally |= sim_lacks_pages(w) || (w->postcopy && w->a_up && undecided);
}

void sim_destroy_image(struct sim_world *w)
{
	if (sim_lacks_pages(w))
		sim_break(w, "5: source image destroyed while the target lacks pages");
	w->image_a = w->demand = false;
}

/* When a first COMMIT is ordered the whole image must exist: the target's pages and the source's. */
void sim_check_commit(struct sim_world *w)
{
	if (w->visible == REC_COMMIT || w->durable == REC_COMMIT)
		return;
	if (sim_lacks_pages(w) && !w->image_a && !w->a_vm_lost)
		sim_break(w, "3: COMMIT although the owed pages are lost");
}

void sim_check_pages(struct sim_world *w)
{
	if (w->b_known && w->b.whole && sim_lacks_pages(w))
		sim_break(w, "11: an absent page counts as present");
	if (w->b_known && w->b.whole && w->b.owes)
		sim_break(w, "11: whole and owing at once");
}

void sim_source_serves(struct sim_world *w)
{
	if (!w->image_a)
		w->a_vm_lost = true; /* found out when it is to be read */
	else if (!w->demand)
		sim_send(w, &w->to_b, MSG_DEMAND);
}

/* COMMIT for a target that may need pages before it can start goes with a link that serves them. */
void sim_source_commits(struct sim_world *w)
{
	if (w->a.owes && w->image_a && !w->demand)
		sim_send(w, &w->to_b, MSG_DEMAND);
}
