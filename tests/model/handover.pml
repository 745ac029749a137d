/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The handover with the journal decider, as in src/engine/handover.c: one source daemon, one target daemon,
 * the source's VMM, and an environment that loses messages and cuts the link.
 *
 * Budgets of faults are macros, so that runs stay small: CRASHA, CRASHB (daemons killed and started again),
 * POWERA (power cut at the source: VMM and page cache are gone too), STORE (record writes that fail,
 * with any outcome on disk), CUTS, DROPS, DIEA (the source's VMM dies, its RAM stays mapped), DIEB (the
 * target's VMM dies after COMMIT). Cancels and time-outs need no budget: they may come at any time.
 *
 * POSTCOPY: the switch may happen with a page owed. The page is a token: absent or present at the target.
 *
 * Broken variants, each of which must be found broken (tests/model/run):
 *   NOSENT       COMMIT on READY alone, while the source's VMM may still fail and resume by itself
 *   RPC          the target runs when it is whole and reports; the source resumes when the report is lost
 *   NOCANCELWAIT the guest is resumed before the cancelled save has ended
 *   PRESUME      after the stop the guest is resumed although ABORT could not be made durable
 *   NOREWRITE    a COMMIT that a restarted daemon reads is told without making it durable first
 *   DESTROYEARLY the source's image goes when the target runs, although a page is owed
 *   ABORTSERVING a link lost while serving leads back
 *   BLINDCOMMIT  COMMIT for a target that is owed a page after the source's image is lost
 *   FORGETSOWED  a restarted target daemon takes an absent page for present
 *   COMMITALONE  a restarted source daemon tells COMMIT without serving the page that starting may need
 *
 * docs/handover.md says which function each inline stands for.
 */
#ifndef CRASHA
#define CRASHA 0
#endif
#ifndef CRASHB
#define CRASHB 0
#endif
#ifndef POWERA
#define POWERA 0
#endif
#ifndef STORE
#define STORE 0
#endif
#ifndef CUTS
#define CUTS 0
#endif
#ifndef DROPS
#define DROPS 0
#endif
#ifndef DIEA
#define DIEA 0
#endif
#ifndef DIEB
#define DIEB 0
#endif
#ifndef POSTCOPY
#define POSTCOPY 0
#endif

mtype = { NONE, BEGIN, COMMIT, ABORT };                           /* records; the last two messages too */
mtype = { PREPARE, PREPARED, READY, RUNNING, FAILED, ASK, ASKWHOLE, ASKPART };
mtype = { READYOWING, RUNNINGOWED, COMPLETE, ASKOWING };
mtype = { RUN, PAUSED, PART, WHOLE, DEAD };                       /* VMs */
mtype = { OPEN, END, GOT, BROKEN };                               /* the stream of pages and state */
mtype = { sIDLE, sBEGIN, sPREPARE, sCOPY, sSTOP, sSENT, sCOMMIT, sCOMMITTED, sSERVING, sDONE,
	  sABORT, sABORTED, sUNKNOWN };
mtype = { tIDLE, tPREPARE, tRECEIVE, tLOAD, tREADY, tPART, tCOMMITTED, tRUNNING, tGONE };
mtype = { IDLE, ACTIVE, FLUSHED, CANCELLING };                    /* the VMM's save */

chan to_b = [2] of { mtype };
chan to_a = [2] of { mtype };

/* Source host */
mtype sa = sIDLE, qa = RUN, qsave = IDLE, writing = NONE;
mtype visible = NONE, durable = NONE;
bool adown, lostA, failed, ready, stopped, may_be_whole, told, lost, aborted;
bool owes_a, image_lost; /* what the machine knows */
bool resuming, all_sent, save_failed;
bool image = true; /* the RAM at the source can be read */
/* Target host */
mtype sb = tIDLE, qb = NONE;
bool bdown, lostB, owes_b;
bool absent; /* the owed page */
bool needed; /* ... without which the guest cannot even start */
mtype stream = NONE;
bool served; /* the demand channel is open */
/* Faults that are left */
byte crashA = CRASHA, crashB = CRASHB, powerA = POWERA, store = STORE, cuts = CUTS, drops = DROPS;
byte dieA = DIEA, dieB = DIEB;
/* History */
bool ever_whole, acted_commit, acted_abort, resumed, fatal, destroyed, hollow, garbage;

#define quiet (empty(to_a) && empty(to_b))
#define lives_b (qb == PART || qb == WHOLE || qb == RUN)
#define must_commit (told || (lost && ready && !(owes_a && image_lost)))
#define can_abort (sa == sPREPARE || sa == sCOPY || sa == sSTOP || (sa == sSENT && !lost))

inline tell_b(m) { if :: !bdown && nfull(to_b) -> to_b!m :: else -> skip fi }
inline tell_a(m) { if :: !adown && nfull(to_a) -> to_a!m :: else -> skip fi }
inline clear(c) { do :: nempty(c) -> c?_ :: empty(c) -> break od }
inline break_stream() { if :: stream == OPEN || stream == END -> stream = BROKEN :: else -> skip fi }
inline cut() { clear(to_a); clear(to_b); break_stream(); served = false; lostA = !adown; lostB = !bdown }

/* --- the source's machine: gw_source_step() --- */

inline do_cancel_save() {
	if :: qsave == ACTIVE || qsave == FLUSHED -> qsave = CANCELLING :: else -> skip fi;
	if :: stream == OPEN -> stream = BROKEN :: else -> skip fi;
	all_sent = false; save_failed = false; served = false
}
inline undo() { do_cancel_save(); sa = sABORT; writing = ABORT }
inline do_send_commit() {
	acted_commit = true;
	if :: owes_a && owes_b && image && !bdown -> served = true :: else -> skip fi;
	tell_b(COMMIT)
}
inline certain_abort() {
	aborted = true; acted_abort = true; tell_b(ABORT);
	if :: stopped -> resuming = true :: else -> sa = sABORTED fi
}
inline do_serve() {
	if
	:: !image -> image_lost = true                                /* IMAGE_LOST: alarm */
	:: image && !served && !bdown -> served = true; tell_b(ASK)
	:: else -> skip
	fi
}
inline ev_failed() {
	if
#ifdef ABORTSERVING
	:: sa == sSERVING -> undo()
#else
	:: sa == sSERVING && image_lost -> do_send_commit()
	:: sa == sSERVING && !image_lost -> do_serve()
#endif
	:: sa == sBEGIN -> failed = true
	:: sa == sPREPARE -> sa = sABORT; writing = ABORT
	:: sa == sCOPY || sa == sSTOP || (sa == sSENT && !lost) -> undo()
	:: sa == sSENT && lost -> tell_b(ASK)
	:: sa == sCOMMITTED -> do_send_commit()
	:: else -> skip
	fi
}
inline ev_target_lost() {
	if
	:: sa == sSENT -> undo()
	:: sa == sCOMMITTED || sa == sSERVING -> skip                 /* alarm */
	:: else -> ev_failed()
	fi
}
inline ev_vm_lost() {
	if
	:: sa == sSTOP -> do_cancel_save(); lost = true; sa = sSENT; tell_b(ASK)
	:: sa == sSENT -> lost = true; tell_b(ASK)
	:: sa == sCOMMIT || (sa == sUNKNOWN && ready) -> lost = true
	:: sa == sUNKNOWN && !ready -> skip
	:: else -> ev_failed()
	fi
}
inline commit() {
	sa = sCOMMIT; writing = COMMIT;
	hollow = hollow || (absent && lives_b && !image && visible != COMMIT && durable != COMMIT)
}
inline ev_ready() {
	if
#ifdef NOSENT
	:: sa == sSTOP -> ready = true; commit()
#else
	:: sa == sSTOP -> ready = true
#endif
	:: sa == sSENT -> ready = true; commit()
	:: else -> skip
	fi
}
inline ev_ready_owing() {
	if
	:: sa == sSTOP -> ready = true; owes_a = true
#ifdef BLINDCOMMIT
	:: sa == sSENT -> ready = true; owes_a = true; commit()
#else
	:: sa == sSENT && image_lost -> owes_a = true; undo()
	:: sa == sSENT && !image_lost -> ready = true; owes_a = true; commit()
#endif
	:: else -> skip
	fi
}
inline ev_all_sent() {
	if
	:: sa == sSTOP && ready -> commit()
	:: sa == sSTOP && !ready -> sa = sSENT
	:: else -> skip
	fi
}
inline ev_running() {
	if
	:: sa == sCOMMITTED || sa == sSERVING -> sa = sDONE; qa = NONE; image = false; destroyed = true
	:: sa == sUNKNOWN -> told = true; commit()
#ifdef RPC
	:: sa == sSENT -> ready = true; commit()
#endif
	:: else -> skip
	fi
}
inline ev_running_owed() {
	if
#ifndef DESTROYEARLY
	:: sa == sCOMMITTED || sa == sSERVING -> sa = sSERVING; do_serve()
#endif
	:: else -> ev_running()
	fi
}
inline ev_recorded() {
	if
	:: sa == sBEGIN && failed -> sa = sABORT; writing = ABORT
	:: sa == sBEGIN && !failed -> sa = sPREPARE; tell_b(PREPARE)
	:: sa == sCOMMIT -> sa = sCOMMITTED; told = true; do_send_commit()
	:: sa == sABORT -> certain_abort()
	:: else -> skip
	fi
}
inline ev_record_failed() {
	if
	:: sa == sBEGIN -> sa = sABORTED; aborted = true
	:: sa == sCOMMIT && must_commit -> sa = sUNKNOWN
	:: sa == sCOMMIT && !must_commit -> undo()
#ifdef PRESUME
	:: sa == sABORT -> certain_abort()
#else
	:: sa == sABORT && may_be_whole -> sa = sUNKNOWN
	:: sa == sABORT && !may_be_whole -> certain_abort()
#endif
	:: else -> skip
	fi
}
inline answer_b() {                                                   /* gw_source_answer() */
	if
	:: sa == sCOMMITTED || sa == sSERVING || sa == sDONE -> do_send_commit()
	:: sa == sABORTED || (sa == sABORT && aborted) -> acted_abort = true; tell_b(ABORT)
	:: else -> skip
	fi
}
inline receive_a(m) {
	if
	:: m == PREPARED -> if :: sa == sPREPARE -> sa = sCOPY; stream = OPEN :: else -> skip fi
	:: m == READY -> ev_ready()
	:: m == RUNNING || m == COMPLETE -> ev_running()
	:: m == READYOWING -> ev_ready_owing()
	:: m == RUNNINGOWED -> ev_running_owed()
	:: m == FAILED -> ev_target_lost()
	:: m == ASKWHOLE -> ev_ready(); answer_b()
	:: m == ASKOWING -> ev_ready_owing(); answer_b()
	:: m == ASKPART -> ev_target_lost(); answer_b()
	fi
}

/* --- the source's daemon: what src/migration/source.c does --- */

inline write_some() {                                                 /* of a write that did not succeed */
	if
	:: skip
	:: visible = writing
	:: visible = writing; durable = writing
	fi
}
inline write_done() {
	if
	:: visible = writing; durable = writing; writing = NONE; ev_recorded()
	:: store > 0 -> store--; write_some(); writing = NONE; ev_record_failed()
	fi
}
inline kill_a() {
	if :: writing != NONE -> write_some() :: else -> skip fi;
	writing = NONE; adown = true; sa = sIDLE;
	failed = false; ready = false; stopped = false; may_be_whole = false; told = false; lost = false;
	aborted = false; resuming = false; all_sent = false; save_failed = false;
	owes_a = false; image_lost = false;
	cut(); lostA = false
}
/* An ordinary crash? Also, with a page owed and the image gone, when COMMIT was written. */
inline vm_a_dies() {
	if
	:: qa != NONE && (qa == RUN || qb != WHOLE || sb != tREADY || acted_abort || sa == sABORT ||
	   visible == ABORT || (sa == sUNKNOWN && !ready)) -> fatal = true
	:: else -> skip
	fi;
	if :: qa != NONE -> qa = DEAD :: else -> skip fi;
	qsave = IDLE
}
inline power_cut_a() {
	vm_a_dies();
	if :: absent && lives_b -> fatal = true :: else -> skip fi;
	kill_a();
	image = false; visible = durable
}
inline kill_vmm_a() {
	vm_a_dies();
	if :: stream == OPEN -> stream = BROKEN :: else -> skip fi;
	if :: !adown -> ev_vm_lost() :: else -> skip fi
}
inline restart_a() {
	adown = false; clear(to_a);
	if
	:: visible == NONE -> sa = sABORTED; aborted = true
	:: visible == BEGIN && qa != DEAD -> stopped = true; may_be_whole = true; undo()
	:: visible == BEGIN && qa == DEAD -> stopped = true; may_be_whole = true; lost = true; sa = sSENT;
		image_lost = true; tell_b(ASK);
		/* Without a VMM the image counts as lost. */
		if :: absent && lives_b -> fatal = true :: else -> skip fi
#ifdef NOREWRITE
	:: visible == COMMIT -> told = true; ready = true; sa = sCOMMITTED; do_send_commit()
#else
	:: visible == COMMIT -> told = true; ready = true; commit();
#ifndef COMMITALONE
		owes_a = true
#endif
#endif
	:: visible == ABORT && qa == RUN -> sa = sABORTED; aborted = true
	:: visible == ABORT && qa != RUN -> stopped = true; may_be_whole = true; undo()
	fi
}

active proctype SourceDaemon() {
	mtype m;
end:	do
	:: d_step { !adown && sa == sIDLE -> sa = sBEGIN; writing = BEGIN }
	:: atomic { !adown && writing != NONE -> write_done() }
	:: atomic { !adown && writing == NONE && nempty(to_a) && sa != sUNKNOWN ->
		to_a?m; receive_a(m); m = NONE }
	:: atomic { !adown && lostA -> lostA = false; ev_failed() }
	:: atomic { !adown && can_abort && writing == NONE -> ev_failed() }      /* cancel, time-out */
	:: atomic { !adown && sa == sCOPY -> sa = sSTOP; stopped = true; may_be_whole = true; qa = PAUSED;
		qsave = ACTIVE; 
		if
		:: POSTCOPY -> absent = true; served = stream == OPEN; if :: needed = true :: true fi
		:: true
		fi }
	:: atomic { !adown && all_sent && writing == NONE -> all_sent = false; ev_all_sent() }
	:: atomic { !adown && save_failed && writing == NONE -> save_failed = false; ev_failed() }
#ifdef NOCANCELWAIT
	:: d_step { !adown && resuming ->
#else
	:: d_step { !adown && resuming && qsave == IDLE ->
#endif
		resuming = false; sa = sABORTED;
		if :: qa == PAUSED -> qa = RUN; resumed = true :: else -> skip fi }
	:: atomic { !adown && sa == sCOMMITTED && quiet -> ev_failed() }         /* repeats */
	:: atomic { !adown && sa == sSENT && lost && quiet -> tell_b(ASK) }
	:: atomic { !adown && sa == sSERVING && quiet ->
		if :: served -> tell_b(ASK) :: else -> ev_failed() fi }
	:: d_step { !adown && sa == sUNKNOWN && writing == NONE ->
		if
		:: must_commit -> commit()
		:: else -> sa = sABORT; writing = ABORT
		fi }
	:: atomic { !adown && crashA > 0 -> crashA--; kill_a() }
	:: atomic { powerA > 0 -> powerA--; power_cut_a() }
	:: atomic { dieA > 0 && (qa == RUN || qa == PAUSED) -> dieA--; kill_vmm_a() }
	:: atomic { adown -> restart_a() }
	od
}

/* The source's VMM while it saves. With AUTORESUME it may fail after everything was flushed and then
 * resumes by itself, as QEMU does when it was not paused before. */
active proctype SourceVmm() {
end:	do
	:: d_step { qsave == ACTIVE && stream == OPEN -> stream = END; qsave = FLUSHED }
	:: d_step { qsave == ACTIVE && stream != OPEN -> qsave = IDLE; save_failed = !adown }
	:: d_step { qsave == FLUSHED -> qsave = IDLE; all_sent = !adown }
#ifdef AUTORESUME
	:: d_step { qsave == FLUSHED -> qsave = IDLE; save_failed = !adown; qa = RUN; resumed = true }
#endif
	/* The end of a cancelled save stops a guest that was resumed too early. */
	:: d_step { qsave == CANCELLING -> qsave = IDLE; if :: qa == RUN -> qa = PAUSED :: else -> skip fi }
	od
}

/* --- the target's machine: gw_target_step(), and its daemon --- */

inline destroy() { qb = NONE; sb = tGONE; owes_b = false; absent = false; needed = false; served = false }
inline ask() {
	if
	:: sb == tREADY && owes_b -> tell_a(ASKOWING)
	:: sb == tREADY && !owes_b -> tell_a(ASKWHOLE)
	:: sb == tPART -> tell_a(ASKPART)
	:: else -> skip
	fi
}
inline say_ready() { if :: owes_b -> tell_a(READYOWING) :: else -> tell_a(READY) fi }
inline say_running() { if :: owes_b -> tell_a(RUNNINGOWED) :: else -> tell_a(RUNNING) fi }
/* COMPLETE: the last page is in, or the guest is gone. */
inline ev_complete() {
	if
	:: owes_b -> owes_b = false; if :: sb == tRUNNING -> tell_a(COMPLETE) :: else -> skip fi
	:: else -> skip
	fi
}
inline ev_link_lost() {
	if
	:: sb == tPREPARE || sb == tRECEIVE || sb == tLOAD -> destroy()
	:: else -> ask()
	fi
}
inline receive_b(m) {
	if
	:: m == PREPARE -> if :: sb == tIDLE -> sb = tPREPARE :: else -> skip fi
	:: m == COMMIT ->
		if
		:: sb == tREADY -> sb = tCOMMITTED
		:: sb == tRUNNING -> say_running()
		:: sb == tIDLE || sb == tGONE || sb == tPART -> tell_a(FAILED)
		:: else -> skip
		fi
	:: m == ABORT ->
		if
		:: sb == tCOMMITTED || sb == tRUNNING || sb == tIDLE -> skip
		:: else -> destroy()
		fi
	:: m == ASK ->
		if
		:: sb == tREADY -> say_ready()
		:: sb == tRUNNING -> say_running()
		:: sb == tIDLE || sb == tGONE || sb == tPART -> tell_a(FAILED)
		:: else -> skip
		fi
	fi
}
inline kill_b() { bdown = true; sb = tIDLE; owes_b = false; cut(); lostB = false }
inline restart_b() {
	bdown = false; clear(to_b);
#ifndef FORGETSOWED
	owes_b = absent && (qb == WHOLE || qb == RUN);
#endif
	if
	:: qb == NONE -> sb = tIDLE
	:: qb == PART -> sb = tPART; ask()
	:: qb == WHOLE -> sb = tREADY; ask()
	:: qb == RUN || qb == DEAD -> sb = tRUNNING; say_running()
	fi
}

active proctype TargetDaemon() {
	mtype m;
end:	do
	:: atomic { !bdown && nempty(to_b) && sb != tCOMMITTED -> to_b?m; receive_b(m); m = NONE }
	:: atomic { !bdown && sb == tPREPARE -> qb = PART; sb = tRECEIVE; tell_a(PREPARED) }
	:: d_step { !bdown && sb == tRECEIVE && stream == END -> stream = GOT; sb = tLOAD }
	:: d_step { sb == tLOAD && qb == PART -> qb = WHOLE; ever_whole = true }
#ifdef RPC
	:: atomic { !bdown && sb == tLOAD && qb == WHOLE -> qb = RUN; sb = tRUNNING; tell_a(RUNNING) }
#else
	:: atomic { !bdown && sb == tLOAD && qb == WHOLE -> sb = tREADY; owes_b = absent; say_ready() }
#endif
	:: atomic { !bdown && sb == tCOMMITTED && !(absent && needed) -> qb = RUN; sb = tRUNNING; say_running() }
	:: atomic { !bdown && lostB -> lostB = false; ev_link_lost() }
	:: atomic { !bdown && stream == BROKEN && (sb == tRECEIVE || sb == tLOAD) -> ev_link_lost() }
	:: atomic { !bdown && quiet && sb == tRECEIVE && (sa == sABORTED || sa == sPREPARE) ->
		ev_link_lost() }
	:: atomic { !bdown && quiet && !adown && writing == NONE && !resuming &&
		(sb == tREADY || sb == tPART) &&
		(sa == sSENT || sa == sCOMMITTED || sa == sDONE || sa == sABORTED) -> ask() }
	:: atomic { !bdown && crashB > 0 -> crashB--; kill_b() }
	:: atomic { dieB > 0 && qb == RUN -> dieB--; qb = DEAD; fatal = true; absent = false;
		if :: !bdown && sb == tRUNNING -> ev_complete() :: else -> skip fi }
	:: atomic { bdown -> restart_b() }
	od
}

/* The owed page comes. Until it is there the guest waits for it; a daemon that does not know that it is owed
 * would let the guest see what is not there. */
active proctype Pages() {
end:	do
	:: atomic { absent && served && image && !adown && !bdown && lives_b ->
		absent = false; needed = false; ev_complete() }
	:: d_step { absent && qb == RUN && sb == tRUNNING && !owes_b -> garbage = true; absent = false }
	od
}

active proctype Network() {
	do
	:: atomic { cuts > 0 && sa != sIDLE -> cuts--; cut() }
	:: atomic { drops > 0 && nempty(to_a) -> drops--; to_a?_ }
	:: atomic { drops > 0 && nempty(to_b) -> drops--; to_b?_ }
	:: true -> skip                                          /* time goes on, so no run is finite */
	od
}

ltl one { [] !(qa == RUN && qb == RUN) }
ltl owner { [] (qb == RUN -> visible == COMMIT && durable == COMMIT) }
ltl whole { [] (visible == COMMIT || durable == COMMIT -> ever_whole) }
ltl decided { [] !(acted_commit && acted_abort) }
ltl newest { [] (qb == RUN -> !resumed) }
ltl kept { [] !(destroyed && absent && lives_b) }
ltl backed { [] !hollow }
ltl real { [] !garbage }
ltl safe { [] (!(qa == RUN && qb == RUN) &&
	(qb == RUN -> visible == COMMIT && durable == COMMIT && !resumed) &&
	(visible == COMMIT || durable == COMMIT -> ever_whole) && !(acted_commit && acted_abort) &&
	!(destroyed && absent && lives_b) && !hollow && !garbage) }
ltl alive { <> [] (qa == RUN || qb == RUN || fatal) }

ltl completes { <> [] (fatal || qa == RUN || (qb == RUN && !absent && sa == sDONE)) }
ltl ends { <> [] (sa == sDONE || sa == sABORTED) }

/* Not vacuous: each of these must be found false. */
ltl never_moves { [] !(qb == RUN && sa == sDONE) }
ltl never_stays { [] !(sa == sABORTED && resumed && qa == RUN && sb == tGONE) }
ltl never_unknown { [] !(sa == sUNKNOWN) }
ltl never_takes_over { [] !(qb == RUN && qa == DEAD) }
ltl never_serves { [] !(sa == sSERVING && absent && !served) }
ltl never_completes { [] !(qb == RUN && sa == sDONE && owes_a) }
ltl never_serves_alone { [] !(sa == sSERVING && qa == DEAD && image && absent) }
ltl never_stalls { [] !(sa == sSERVING && image_lost && absent && qb == RUN) }
