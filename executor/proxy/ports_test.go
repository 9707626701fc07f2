package proxy

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestAllocate(t *testing.T) {
	t.Parallel()
	many := make([]uint32, lastPort-FirstPort+2)
	for i := range many {
		many[i] = uint32(i) + 1000
	}
	tests := map[string]struct {
		ports []uint32
		want  []Listener
		err   error
	}{
		"no ports":                          {},
		"one":                               {ports: []uint32{9000}, want: []Listener{{AppPort: 9000, Port: 61001}}},
		"8080 has one for other containers": {ports: []uint32{8080}, want: []Listener{{AppPort: 8080, Port: 61001}, {AppPort: 8080, Port: C2CPort, C2C: true}}},
		"several": {
			ports: []uint32{9000, 8080, 2222},
			want: []Listener{
				{AppPort: 9000, Port: 61001}, {AppPort: 8080, Port: 61002}, {AppPort: 8080, Port: C2CPort, C2C: true}, {AppPort: 2222, Port: 61003},
			},
		},
		"the application's own are passed over":      {ports: []uint32{61001, 61003}, want: []Listener{{AppPort: 61001, Port: 61002}, {AppPort: 61003, Port: 61004}}},
		"61443 is not the application's":             {ports: []uint32{8080, 61443}, err: ErrReservedPort},
		"61443 is not the application's, ever":       {ports: []uint32{61443}, err: ErrReservedPort},
		"more than there are":                        {ports: many, err: ErrNoPorts},
		"as many as there are, less the one for c2c": {ports: many[2:]},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := Allocate(tc.ports)
			require.ErrorIs(t, err, tc.err)
			if tc.err != nil {
				return
			}
			if len(tc.ports) > 100 {
				require.GreaterOrEqual(t, len(got), len(tc.ports))
				return
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("Allocate(%v) (-want +got):\n%s", tc.ports, diff)
			}
		})
	}
	require.EqualError(t, ErrReservedPort, "port 61443 is reserved for container networking")
	require.EqualError(t, ErrNoPorts, "no ports available")
}

func TestAllocateGivesEachPortOneOfItsOwn(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		apps := rapid.SliceOfDistinct(rapid.OneOf(rapid.Uint32Range(1, 65535), rapid.Uint32Range(60990, 61460), rapid.Just(uint32(8080))),
			func(p uint32) uint32 { return p }).Draw(t, "ports")
		got, err := Allocate(apps)
		if err != nil {
			return
		}
		taken, served := map[uint32]bool{}, map[uint32]bool{}
		for _, p := range apps {
			taken[p] = true
		}
		for _, l := range got {
			if taken[l.Port] || l.Port < FirstPort || l.Port >= 65534 || l.C2C != (l.Port == C2CPort) || l.C2C && l.AppPort != 8080 {
				t.Fatalf("listener %+v for %v", l, apps)
			}
			taken[l.Port] = true
			served[l.AppPort] = served[l.AppPort] || !l.C2C
		}
		for _, p := range apps {
			if !served[p] {
				t.Fatalf("no listener for %d of %v", p, apps)
			}
		}
	})
}
