package emit

import (
	"log/slog"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"diego.internal/route-emitter/internal/routetable"
)

// FuzzGreeting receives what anybody may say on NATS. The interval that comes of it is one at which to
// emit.
func FuzzGreeting(f *testing.F) {
	for _, seed := range []string{
		`{"id":"r","minimumRegisterIntervalInSeconds":20,"pruneThresholdInSeconds":120}`, `{"minimumRegisterIntervalInSeconds":0}`,
		`{"minimumRegisterIntervalInSeconds":-1}`, `{"minimumRegisterIntervalInSeconds":9223372036854775807}`, `{}`, `[]`, ``,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		s := newSchedule(&Emitter{cfg: Config{Log: slog.New(slog.DiscardHandler)}}, routetable.Plane("router"))
		s.receive(&nats.Msg{Data: data})
		s.receive(&nats.Msg{Data: data}) // nobody has taken the first
		select {
		case g := <-s.heard:
			interval := clamp(time.Duration(g.MinimumInterval)*time.Second, 20*time.Second)
			if interval <= 0 || untilTick(time.Now(), interval, "seed") <= 0 {
				t.Fatalf("%+v makes an interval of %v", g, interval)
			}
		default:
		}
	})
}
