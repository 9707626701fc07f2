package executor

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"diego.internal/executor/garden"
)

// Whatever is asked for and given back in whatever order: nothing is over-committed, a refusal is justified and changes
// nothing, and what remains is the total less what is held.
func TestLedgerNeverOverCommits(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		total := Resources{
			MemoryMB:   rapid.IntRange(1, 200).Draw(t, "memory"),
			DiskMB:     rapid.IntRange(1, 200).Draw(t, "disk"),
			Containers: rapid.IntRange(1, 10).Draw(t, "containers"),
		}
		l := ledger{total: total}
		var held []ContainerResources
		for range rapid.IntRange(1, 50).Draw(t, "steps") {
			if len(held) > 0 && rapid.Bool().Draw(t, "give back") {
				i := rapid.IntRange(0, len(held)-1).Draw(t, "which")
				l.giveBack(held[i])
				held = append(held[:i], held[i+1:]...)
				continue
			}
			r := ContainerResources{
				MemoryMB: rapid.IntRange(0, 100).Draw(t, "wanted memory"),
				DiskMB:   rapid.IntRange(0, 100).Draw(t, "wanted disk"),
			}
			before := l.remaining()
			fits := r.MemoryMB <= before.MemoryMB && r.DiskMB <= before.DiskMB && before.Containers > 0
			if err := l.take(r); (err == nil) != fits {
				t.Fatalf("take(%+v) of %+v: %v, fits %v", r, before, err, fits)
			} else if err != nil && l.remaining() != before {
				t.Fatalf("a refusal changed %+v to %+v", before, l.remaining())
			} else if err == nil {
				held = append(held, r)
			}
		}
		want := total
		for _, r := range held {
			want.MemoryMB -= r.MemoryMB
			want.DiskMB -= r.DiskMB
			want.Containers--
		}
		if got := l.remaining(); got != want || got.MemoryMB < 0 || got.DiskMB < 0 || got.Containers < 0 {
			t.Fatalf("remaining %+v, want %+v", got, want)
		}
	})
}

func TestLedgerUnlimitedTakesNothing(t *testing.T) {
	t.Parallel()
	l := ledger{total: Resources{MemoryMB: 10, DiskMB: 10, Containers: 3}}
	l.force(ContainerResources{MemoryMB: 20, DiskMB: 20})
	require.NoError(t, l.take(ContainerResources{}), "no memory and no disk wanted, none needed")
	require.ErrorIs(t, l.take(ContainerResources{MemoryMB: 1}), ErrInsufficientResources)
}

func TestMeasure(t *testing.T) {
	t.Parallel()
	engine := garden.Capacity{MemoryInBytes: 4 << 30, DiskInBytes: 20_000_000_000, MaxContainers: 250}
	tests := map[string]struct {
		cfg     Config
		engine  garden.Capacity
		want    Resources
		wantErr string
	}{
		"all of the engine, less the cache": {cfg: Config{CacheSizeBytes: 10_000_000_000}, engine: engine, want: Resources{MemoryMB: 4096, DiskMB: 9536, Containers: 249}},
		"what is configured":                {cfg: Config{MemoryMB: 100, DiskMB: 200}, engine: engine, want: Resources{MemoryMB: 100, DiskMB: 200, Containers: 249}},
		"less an overhead":                  {cfg: Config{DiskOverheadMB: 10_000}, engine: engine, want: Resources{MemoryMB: 4096, DiskMB: 9073, Containers: 249}},
		"a cache larger than the disk":      {cfg: Config{CacheSizeBytes: 30_000_000_000}, engine: engine, wantErr: "auto disk limit must result in a positive number"},
		"an engine of one container":        {engine: garden.Capacity{MemoryInBytes: 1 << 30, DiskInBytes: 1 << 30, MaxContainers: 1}, wantErr: "at least 2"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := measure(tc.cfg, tc.engine)
			if tc.wantErr != "" {
				require.ErrorContains(t, err, tc.wantErr)
				return
			}
			require.NoError(t, err)
			require.Equal(t, tc.want, got)
		})
	}
}

func TestNetOut(t *testing.T) {
	t.Parallel()
	addr := netip.MustParseAddr
	span := func(a, b string) garden.IPRange { return garden.IPRange{Start: addr(a), End: addr(b)} }
	tests := map[string]struct {
		rule    EgressRule
		want    []garden.NetOutRule
		wantErr string
	}{
		"an address, a net and a range": {
			rule: EgressRule{Protocol: "tcp", Ports: []uint32{80, 443}, Log: true, Destinations: []string{"10.0.0.1", "10.1.0.0/16,1.1.1.1-1.1.1.9"}},
			want: []garden.NetOutRule{
				{Protocol: "tcp", Log: true, Ports: []garden.PortRange{{Start: 80, End: 80}, {Start: 443, End: 443}}, Networks: []garden.IPRange{span("10.0.0.1", "10.0.0.1")}},
				{Protocol: "tcp", Log: true, Ports: []garden.PortRange{{Start: 80, End: 80}, {Start: 443, End: 443}}, Networks: []garden.IPRange{span("10.1.0.0", "10.1.255.255"), span("1.1.1.1", "1.1.1.9")}},
			},
		},
		"icmp of any code": {
			rule: EgressRule{Protocol: "icmp", Destinations: []string{"0.0.0.0/0"}, ICMP: &ICMPInfo{Type: 8, Code: -1}},
			want: []garden.NetOutRule{{Protocol: "icmp", ICMP: &garden.ICMPControl{Type: new(uint8(8))}, Networks: []garden.IPRange{span("0.0.0.0", "255.255.255.255")}}},
		},
		"a net of version 6": {
			rule: EgressRule{Protocol: "all", Destinations: []string{"fd00::/127"}},
			want: []garden.NetOutRule{{Protocol: "all", Networks: []garden.IPRange{span("fd00::", "fd00::1")}}},
		},
		"no such place":         {rule: EgressRule{Protocol: "all", Destinations: []string{"x"}}, wantErr: "failed to convert destination to ip range"},
		"a range upside down":   {rule: EgressRule{Protocol: "all", Destinations: []string{"1.1.1.2-1.1.1.1"}}, wantErr: "range ends before it starts"},
		"no destination":        {rule: EgressRule{Protocol: "all"}, wantErr: "needs a destination"},
		"tcp without ports":     {rule: EgressRule{Protocol: "tcp", Destinations: []string{"1.1.1.1"}}, wantErr: "needs either ports or a port range"},
		"all with ports":        {rule: EgressRule{Protocol: "all", Ports: []uint32{1}, Destinations: []string{"1.1.1.1"}}, wantErr: "takes no ports"},
		"a port out of range":   {rule: EgressRule{Protocol: "udp", Ports: []uint32{65536}, Destinations: []string{"1.1.1.1"}}, wantErr: "port 65536 is not in 1 to 65535"},
		"an unknown protocol":   {rule: EgressRule{Protocol: "sctp", Destinations: []string{"1.1.1.1"}}, wantErr: `protocol "sctp" is unknown`},
		"a port range reversed": {rule: EgressRule{Protocol: "tcp", PortRange: &PortRange{Start: 2, End: 1}, Destinations: []string{"1.1.1.1"}}, wantErr: "port range 2-1 is not valid"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := netOut([]EgressRule{tc.rule})
			if tc.wantErr != "" {
				require.ErrorContains(t, err, tc.wantErr)
				return
			}
			require.NoError(t, err)
			if diff := cmp.Diff(tc.want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
				t.Errorf("netOut(%+v) (-want +got):\n%s", tc.rule, diff)
			}
			for _, rule := range got {
				require.NoError(t, rule.Validate())
			}
		})
	}
}
