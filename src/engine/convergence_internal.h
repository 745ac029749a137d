/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Shared by convergence.c (measuring, thresholds, the last short passes) and convergence_plan.c (the rest). */
#ifndef GW_ENGINE_CONVERGENCE_INTERNAL_H
#define GW_ENGINE_CONVERGENCE_INTERNAL_H

#include "engine/convergence.h"

/* Times that are not negative; GW_TIME_NEVER and overflow stay GW_TIME_NEVER. */
gw_time_ns gw_conv_add_ns(gw_time_ns a, gw_time_ns b);
gw_time_ns gw_conv_copy_ns(const struct gw_convergence *c, uint64_t bytes);

/* What of the budget copying may use; negative when the fixed part alone is above it. */
gw_time_ns gw_conv_copy_budget_ns(const struct gw_convergence *c, const struct gw_pass_stats *s);
/* The largest rest that meets the chosen threshold, the budget for the pause left aside. */
uint64_t gw_conv_threshold_bytes(const struct gw_convergence *c);
/* So little that copying it on is not worth a pass. */
uint64_t gw_conv_floor_bytes(const struct gw_convergence *c);

/* What the next pass would send by the plan, and how fast that is dirtied. */
uint64_t gw_conv_next_bytes(const struct gw_convergence *c, const struct gw_pass_stats *s);
double gw_conv_next_rate_Bps(const struct gw_convergence *c, const struct gw_pass_stats *s);

/* convergence_plan.c: what is left does not fit. Fills verdict, reason, ETA; moves the plan on. */
void gw_conv_plan(struct gw_convergence *c, const struct gw_pass_stats *s, struct gw_decision *d);

#endif
