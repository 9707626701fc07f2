package usage

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

var start = time.Unix(1_700_000_000, 0)

// after is a sample so many seconds after the creation of a container that is entitled to half a core.
func after(seconds int, used time.Duration) Sample {
	age := time.Duration(seconds) * time.Second
	return Sample{At: start.Add(age), Used: used, Entitled: age / 2, Age: age}
}

func TestMeter(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		samples     []Sample
		cpu, entitl float64
		from, to    int // seconds of the spike; 0 for none
	}{
		"nothing was seen":            {},
		"a first sample tells little": {samples: []Sample{after(10, 10*time.Second)}},
		"a quarter of a core is half of the entitlement": {
			samples: []Sample{after(10, 0), after(20, 2500*time.Millisecond)}, cpu: 25, entitl: 50,
		},
		"more than the entitlement is a spike": {
			samples: []Sample{after(10, 0), after(20, 10*time.Second)}, cpu: 100, entitl: 200, from: 10,
		},
		"a spike goes on": {
			samples: []Sample{after(10, 0), after(20, 10*time.Second), after(30, 20*time.Second)}, cpu: 100, entitl: 200, from: 10,
		},
		"a spike ends with the last sample that was above": {
			samples: []Sample{after(10, 0), after(20, 10*time.Second), after(30, 15*time.Second)}, cpu: 50, entitl: 100, from: 10, to: 20,
		},
		"the latest spike counts": {
			samples: []Sample{after(10, 0), after(20, 10*time.Second), after(30, 11*time.Second), after(40, 21*time.Second), after(50, 21*time.Second)},
			from:    30, to: 40,
		},
		"a container that began anew has no percentage": {
			samples: []Sample{after(10, 0), after(20, 10*time.Second), after(5, time.Second)}, from: 10,
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var m Meter
			for _, s := range test.samples {
				m = m.Add(s)
			}
			require.InDelta(t, test.cpu, m.CPUPercent, 1e-9)
			require.InDelta(t, test.entitl, m.EntitlementPercent, 1e-9)
			at := func(seconds int) time.Time {
				if seconds == 0 {
					return time.Time{}
				}
				return start.Add(time.Duration(seconds) * time.Second)
			}
			require.Equal(t, at(test.from), m.SpikeStart)
			require.Equal(t, at(test.to), m.SpikeEnd)
		})
	}
}

func TestMeterOfWhoIsEntitledToNothing(t *testing.T) {
	t.Parallel()
	m := Meter{}.Add(Sample{At: start, Age: time.Second}).Add(Sample{At: start.Add(time.Second), Age: 2 * time.Second, Used: time.Second})
	require.InDelta(t, 100.0, m.CPUPercent, 1e-9)
	require.Zero(t, m.EntitlementPercent)
	require.True(t, m.SpikeStart.IsZero())
}

// Whatever comes, a spike does not end before it starts, and percentages are not negative.
func TestMeterProperties(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var m Meter
		now := start
		for range rapid.IntRange(0, 20).Draw(t, "samples") {
			now = now.Add(time.Duration(rapid.IntRange(0, 20).Draw(t, "pause")) * time.Second)
			d := func(name string) time.Duration {
				return time.Duration(rapid.IntRange(0, 100).Draw(t, name)) * time.Second
			}
			m = m.Add(Sample{At: now, Used: d("used"), Entitled: d("entitled"), Age: d("age")})
			if m.CPUPercent < 0 || m.EntitlementPercent < 0 || !m.SpikeEnd.IsZero() && m.SpikeEnd.Before(m.SpikeStart) {
				t.Fatalf("%+v", m)
			}
		}
	})
}
