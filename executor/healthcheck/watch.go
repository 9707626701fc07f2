package healthcheck

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"
)

// watch carries a schedule out: one timer for each check, and a goroutine only while its probe is under way.
type watch struct {
	ctx    context.Context
	checks []Check
	// changed is called with the lock held after each change of the schedule: err is nil when it went up. It returns false
	// to end the watch.
	changed func(err error) (more bool)
	// expired is called once, with the lock held, when the checks have not all passed by the deadline. The watch is over then.
	expired  func()
	deadline time.Time // zero: none

	mu       sync.Mutex
	schedule schedule
	slots    []slot
	expiry   *time.Timer
	late     bool // the deadline has passed, and probes are still under way
	over     bool
	idle     sync.WaitGroup // of probes under way
}

// slot is one check at work: its timer runs, or its probe does, or neither.
type slot struct {
	timer   *time.Timer
	probing bool
}

// start arms the timers. The checks of a container that has been up before this process began are spread over their
// interval: a cell that has just restarted has many of them.
func (w *watch) start() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.slots = make([]slot, len(w.checks))
	for i := range w.checks {
		pause := w.schedule.first()
		if w.schedule.up {
			interval, due := w.schedule.next(i)
			if !due {
				continue
			}
			pause = rand.N(interval) //nolint:gosec // spreads, and is no secret
		}
		w.arm(i, pause)
	}
	if !w.deadline.IsZero() {
		w.expiry = time.AfterFunc(time.Until(w.deadline), w.expire)
	}
}

// arm is called with the lock held.
func (w *watch) arm(i int, pause time.Duration) {
	if w.slots[i].timer == nil {
		w.slots[i].timer = time.AfterFunc(pause, func() { w.probe(i) })
		return
	}
	w.slots[i].timer.Reset(pause)
}

// stop ends the watch and waits for the probes under way, which end soon because their context has ended.
func (w *watch) stop() {
	w.mu.Lock()
	w.finish()
	w.mu.Unlock()
	w.idle.Wait()
}

// finish is called with the lock held.
func (w *watch) finish() {
	w.over = true
	for _, s := range w.slots {
		if s.timer != nil {
			s.timer.Stop()
		}
	}
	if w.expiry != nil {
		w.expiry.Stop()
	}
}

// probe asks once.
func (w *watch) probe(i int) {
	w.mu.Lock()
	if w.over || w.late || w.slots[i].probing {
		w.mu.Unlock()
		return
	}
	w.slots[i].probing = true
	w.idle.Add(1)
	defer w.idle.Done()
	ctx, cancel := w.ctx, func() {}
	if !w.deadline.IsZero() {
		ctx, cancel = context.WithDeadlineCause(w.ctx, w.deadline, errStartTimeout)
	}
	w.mu.Unlock()

	err := w.checks[i].Probe(ctx)
	cut := ctx.Err() != nil
	cancel()

	w.mu.Lock()
	defer w.mu.Unlock()
	w.slots[i].probing = false
	if w.over || w.ctx.Err() != nil {
		return
	}
	w.take(i, err, cut)
	w.expireIfIdle()
}

// take carries an answer on. It is called with the lock held.
func (w *watch) take(i int, err error, cut bool) {
	// A probe that the end of the time cut off says less than the one before it.
	if state := w.schedule.checks[i]; err != nil && cut && state.attempts > 0 {
		err = state.last
	}
	if w.schedule.answer(i, err) {
		w.change(err)
		return
	}
	if pause, due := w.schedule.next(i); due && !w.late {
		w.arm(i, pause)
	}
}

// change tells of a change and arms every check anew. Those under way are armed when they have been answered.
func (w *watch) change(err error) {
	if w.expiry != nil {
		w.expiry.Stop()
		w.expiry = nil
	}
	w.deadline, w.late = time.Time{}, false
	if !w.changed(err) {
		w.finish()
		return
	}
	for i, s := range w.slots {
		if pause, due := w.schedule.next(i); due && !s.probing {
			w.arm(i, pause)
		}
	}
}

// expire ends a start that took too long, after the probes under way: they are cut off, and say more than none.
func (w *watch) expire() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.over || w.schedule.up {
		return
	}
	w.late = true
	w.expireIfIdle()
}

func (w *watch) expireIfIdle() {
	if !w.late || w.over {
		return
	}
	for _, s := range w.slots {
		if s.probing {
			return
		}
	}
	w.finish()
	w.expired()
}
