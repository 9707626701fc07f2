package emit

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/nats-io/nats.go"

	"diego.internal/route-emitter/internal/routetable"
)

const (
	firstGreetWait = time.Second
	lastGreetWait  = 16 * time.Second
	// A listener that asks for less or more than this is taken at these.
	shortestInterval = time.Second
	longestInterval  = 10 * time.Minute
)

// greeting is what a listener says on "<plane>.start" and in answer to "<plane>.greet".
type greeting struct {
	ID                 string `json:"id"`
	MinimumInterval    int64  `json:"minimumRegisterIntervalInSeconds"`
	PruneThresholdSecs int64  `json:"pruneThresholdInSeconds"`
}

// schedule decides when the whole table of one plane is sent: at once when the first listener answers and after NATS
// comes back, a random moment after a listener has started, and at the interval that listeners ask for. The steady
// emissions of an emitter have a phase of their own, so that those of many emitters stay spread.
type schedule struct {
	e      *Emitter
	plane  routetable.Plane
	heard  chan greeting // from starts and answers; the last one counts
	kicked chan struct{} // NATS is connected again
}

func newSchedule(e *Emitter, plane routetable.Plane) *schedule {
	return &schedule{e: e, plane: plane, heard: make(chan greeting, 1), kicked: make(chan struct{}, 1)}
}

// subscribe listens for starts and for answers to the own inbox, which it returns.
func (s *schedule) subscribe(nc *nats.Conn) (inbox string, err error) {
	inbox = nc.NewInbox()
	for _, subject := range []string{string(s.plane) + ".start", inbox} {
		if _, err := nc.Subscribe(subject, s.receive); err != nil {
			return "", err //nolint:wrapcheck // the caller names the plane
		}
	}
	return inbox, nil
}

// noResponders is the status with which NATS itself answers a request that nobody listens for.
const noResponders = "503"

func (s *schedule) receive(msg *nats.Msg) {
	if len(msg.Data) == 0 && msg.Header.Get("Status") == noResponders {
		return // no router is there yet; the greeting is repeated, and a router that starts says so
	}
	var g greeting
	if err := json.Unmarshal(msg.Data, &g); err != nil {
		s.e.cfg.Log.Warn("greeting-not-understood", "subject", msg.Subject, "error", err)
		return
	}
	for {
		select {
		case s.heard <- g:
			return
		default:
		}
		select { // make room: only the newest counts
		case <-s.heard:
		default:
		}
	}
}

// kick makes run emit at once.
func (s *schedule) kick() {
	select {
	case s.kicked <- struct{}{}:
	default: // it will anyway
	}
}

// run emits until ctx ends.
func (s *schedule) run(ctx context.Context, nc *nats.Conn, inbox string) {
	interval, wait := s.e.cfg.DefaultInterval, firstGreetWait
	tick, greet := time.NewTimer(s.untilTick(interval)), time.NewTimer(0)
	jitter := time.NewTimer(time.Hour)
	jitter.Stop()
	defer tick.Stop()
	defer greet.Stop()
	defer jitter.Stop()
	greeted := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-greet.C:
			s.greet(nc, inbox)
			greet.Reset(wait)
			wait = min(2*wait, lastGreetWait)
		case g := <-s.heard:
			interval = clamp(time.Duration(g.MinimumInterval)*time.Second, s.e.cfg.DefaultInterval)
			s.e.setInterval(s.plane, interval)
			tick.Reset(s.untilTick(interval))
			if !greeted {
				greeted = true
				greet.Stop()
				s.e.emit(s.plane)
				continue
			}
			// Every emitter hears the start of a router; together at once they would flood it.
			jitter.Reset(time.Duration(rand.Float64() * s.e.cfg.JitterFactor * float64(interval))) //nolint:gosec // spreads load, guards nothing
		case <-jitter.C:
			s.e.emit(s.plane)
		case <-s.kicked:
			s.e.emit(s.plane)
		case <-tick.C:
			s.e.emit(s.plane)
			tick.Reset(s.untilTick(interval))
		}
	}
}

func (s *schedule) greet(nc *nats.Conn, inbox string) {
	err := nc.PublishRequest(string(s.plane)+".greet", inbox, nil)
	if err != nil && !errors.Is(err, nats.ErrReconnectBufExceeded) { // that is: not connected, which is known
		s.e.cfg.Log.Warn("publishing-greet-failed", "plane", string(s.plane), "error", err)
	}
}

func (s *schedule) untilTick(interval time.Duration) time.Duration {
	return untilTick(time.Now(), interval, s.e.cfg.Seed)
}

// untilTick is the time to the next steady emission: a moment in each interval that depends on the seed alone.
func untilTick(now time.Time, interval time.Duration, seed string) time.Duration {
	sum := sha256.Sum256([]byte(seed))
	phase := int64(binary.BigEndian.Uint64(sum[:8]) % uint64(interval)) //nolint:gosec // below interval, which is positive
	return interval - time.Duration((now.UnixNano()-phase)%int64(interval))
}

// clamp takes the interval that a listener asks for, within reason.
func clamp(asked, fallback time.Duration) time.Duration {
	if asked <= 0 {
		return fallback
	}
	return max(shortestInterval, min(asked, longestInterval))
}
