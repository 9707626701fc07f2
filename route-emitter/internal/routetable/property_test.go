package routetable

import (
	"fmt"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// model is the naive statement of what is registered: routes times endpoints.
type model struct {
	desired map[string]Desired
	records map[modelKey]Endpoint
}

type modelKey struct {
	instance   string
	evacuating bool
}

func (m model) registered() map[Key]string {
	type owner struct {
		instance string
		since    time.Time
	}
	owners := map[string]owner{}
	for _, e := range m.records {
		a := e.HostAddress + ":" + strconv.Itoa(int(e.Ports[0].Host))
		if o, ok := owners[a]; !ok || e.Since.After(o.since) || (e.Since.Equal(o.since) && e.InstanceGUID > o.instance) {
			owners[a] = owner{e.InstanceGUID, e.Since}
		}
	}
	out := map[Key]string{}
	for _, e := range m.records {
		d, ok := m.desired[e.ProcessGUID]
		a := e.HostAddress + ":" + strconv.Itoa(int(e.Ports[0].Host))
		if !ok || e.Index >= d.Instances || owners[a].instance != e.InstanceGUID {
			continue
		}
		for _, r := range d.Routes.HTTP {
			out[Key{PlaneHTTP, a, r.Hostname}] = e.InstanceGUID
			if r.PerInstance {
				out[Key{PlaneHTTP, a, strconv.Itoa(e.Index) + "." + r.Hostname}] = e.InstanceGUID
			}
		}
	}
	return out
}

// TestTableModel says: after any sequence of changes, with tags that only grow, what listeners have been told equals
// routes times endpoints, and so does what the table would repeat.
func TestTableModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		table, want := New(Config{}), model{map[string]Desired{}, map[modelKey]Endpoint{}}
		told := map[Key]string{} // what a listener knows that obeys every message
		clock := uint32(0)
		apply := func(c Changes) {
			seen := map[Key]bool{}
			for _, m := range c.Register {
				require.False(rt, seen[m.Key], "two messages for %v", m.Key)
				seen[m.Key] = true
				told[m.Key] = m.InstanceGUID
			}
			for _, m := range slices.Concat(c.Unregister, c.Withdraw) {
				require.False(rt, seen[m.Key], "both kinds of message for %v", m.Key)
				seen[m.Key] = true
				require.Contains(rt, told, m.Key, "unregistering what is not registered")
				delete(told, m.Key)
			}
		}
		rt.Repeat(map[string]func(*rapid.T){
			"set routes": func(rt *rapid.T) {
				clock++
				d := drawDesired(rt, clock)
				want.desired[d.ProcessGUID] = d
				apply(table.SetRoutes(d))
			},
			"repeat old routes": func(rt *rapid.T) {
				d := drawDesired(rt, 0)
				if _, ok := table.processes[d.ProcessGUID]; ok && table.processes[d.ProcessGUID].desired.Tag.Epoch != "" {
					require.True(rt, table.SetRoutes(d).Empty(), "an old tag was applied")
				}
			},
			"remove routes": func(rt *rapid.T) {
				clock++
				guid := rapid.SampledFrom([]string{"p", "q"}).Draw(rt, "process")
				delete(want.desired, guid)
				apply(table.RemoveRoutes(guid, tag(clock)))
			},
			"add endpoint": func(rt *rapid.T) {
				clock++
				e := drawEndpoint(rt, clock)
				want.records[modelKey{e.InstanceGUID, e.Evacuating}] = e
				// The other record of one container life is the same container.
				other := modelKey{e.InstanceGUID, !e.Evacuating}
				if _, ok := want.records[other]; ok {
					twin := e
					twin.Evacuating = !e.Evacuating
					want.records[other] = twin
					apply(table.AddEndpoint(twin))
				}
				apply(table.AddEndpoint(e))
			},
			"remove endpoint": func(rt *rapid.T) {
				clock++
				e := drawEndpoint(rt, clock)
				delete(want.records, modelKey{e.InstanceGUID, e.Evacuating})
				apply(table.RemoveEndpoint(e))
			},
			"swap for the same content": func(rt *rapid.T) {
				next := New(Config{})
				for _, d := range want.desired {
					next.SetRoutes(d)
				}
				for _, e := range want.records {
					next.AddEndpoint(e)
				}
				require.True(rt, table.Swap(next, func(string) bool { return true }).Empty())
			},
			"": func(rt *rapid.T) {
				expected := want.registered()
				if diff := cmp.Diff(expected, told); diff != "" {
					rt.Fatalf("told (-routes x endpoints +told):\n%s", diff)
				}
				got := map[Key]string{}
				for _, m := range table.Messages() {
					got[m.Key] = m.InstanceGUID
				}
				if diff := cmp.Diff(expected, got); diff != "" {
					rt.Fatalf("repeated (-routes x endpoints +repeated):\n%s", diff)
				}
				http, _ := table.Size()
				require.Equal(rt, len(expected), http)
			},
		})
	})
}

func drawDesired(rt *rapid.T, index uint32) Desired {
	d := Desired{ProcessGUID: rapid.SampledFrom([]string{"p", "q"}).Draw(rt, "process"), Domain: "d", Instances: rapid.IntRange(0, 3).Draw(rt, "instances"), Tag: tag(index)}
	for _, h := range rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"a", "b", "c"}), 0, 3, rapid.ID).Draw(rt, "hostnames") {
		d.Routes.HTTP = append(d.Routes.HTTP, HTTPRoute{Hostname: h, ContainerPort: 8080, PerInstance: h == "c"})
	}
	return d
}

// drawEndpoint makes instances of two processes on few addresses, so that they collide now and then.
func drawEndpoint(rt *rapid.T, index uint32) Endpoint {
	n := rapid.IntRange(0, 3).Draw(rt, "instance")
	process := []string{"p", "q"}[n%2]
	return Endpoint{
		ProcessGUID: process, InstanceGUID: fmt.Sprintf("%s-%d", process, n), Index: n, Evacuating: rapid.Bool().Draw(rt, "evacuating"),
		HostAddress: "10.0.0.1", Ports: []Port{{Container: 8080, Host: 61000 + uint32(rapid.IntRange(0, 2).Draw(rt, "port"))}},
		Since: since.Add(time.Duration(rapid.IntRange(0, 2).Draw(rt, "since")) * time.Second), Tag: tag(index),
	}
}
