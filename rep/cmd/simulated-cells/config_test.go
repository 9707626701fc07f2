package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"diego.internal/executor/garden"
	"diego.internal/executor/garden/simulated"
)

func TestCellsConfigValidate(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		change func(*CellsConfig)
		want   string
	}{
		"the defaults and a count":         {change: func(*CellsConfig) {}},
		"no cell":                          {change: func(c *CellsConfig) { c.Count = 0 }, want: "count"},
		"an index beyond the networks":     {change: func(c *CellsConfig) { c.First = maxCells }, want: "count"},
		"no zone":                          {change: func(c *CellsConfig) { c.Zones = nil }, want: "zones"},
		"an address that nobody can reach": {change: func(c *CellsConfig) { c.Host = "0.0.0.0" }, want: "host"},
		"a name instead of an address":     {change: func(c *CellsConfig) { c.Host = "localhost" }, want: "host"},
		"an id that no cell may have":      {change: func(c *CellsConfig) { c.IDPrefix = "cell." }, want: "id: "},
		"no memory":                        {change: func(c *CellsConfig) { c.MemoryMB = 0 }, want: "memory_mb"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var cfg CellsConfig
			cfg.SetDefaults()
			cfg.Count = 5
			tc.change(&cfg)
			if err := cfg.Validate(); tc.want == "" {
				require.NoError(t, err)
			} else {
				require.ErrorContains(t, err, tc.want)
			}
		})
	}
}

func TestMissingCertificateIsAnError(t *testing.T) {
	t.Parallel()
	p := newPeers(t, 2)
	p.cfg["cells"].(map[string]any)["count"] = 3
	err := run(t.Context(), []string{"-config", p.configuration()})
	require.ErrorContains(t, err, "cell-2.crt")
}

func TestCertificateOfAnotherCellIsRefused(t *testing.T) {
	t.Parallel()
	p := newPeers(t, 2)
	folder := p.cfg["certificates"].(map[string]any)["folder"].(string)
	for _, ending := range []string{".crt", ".key"} {
		require.NoError(t, os.Rename(filepath.Join(folder, "cell-0"+ending), filepath.Join(folder, "cell-1"+ending)))
	}
	p.cfg["cells"] = map[string]any{"count": 1, "first": 1}
	err := run(t.Context(), []string{"-config", p.configuration()})
	require.ErrorContains(t, err, `opening cell "cell-1": its certificate is for`)
}

func TestMachinesHaveNetworksOfTheirOwn(t *testing.T) {
	t.Parallel()
	h := newHost(Config{}, nil)
	outside, inside := map[string]bool{}, map[string]bool{}
	for i := range maxCells {
		m := h.machine(i)
		outside[m.ExternalIP] = true
		inside[m.Network.Masked().String()] = true
	}
	require.Len(t, outside, maxCells)
	require.Len(t, inside, maxCells)
}

func TestSpan(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		span     Span
		min, max time.Duration
		mean     time.Duration
	}{
		"always the same":       {span: Span{Min: time.Second, Max: time.Second}, min: time.Second, max: time.Second, mean: time.Second},
		"all as likely":         {span: Span{Min: time.Second, Max: 3 * time.Second}, min: time.Second, max: 3 * time.Second, mean: 2 * time.Second},
		"long ones are rare":    {span: Span{Min: time.Second, Mean: 2 * time.Second, Max: time.Minute}, min: time.Second, max: time.Minute, mean: 2 * time.Second},
		"cut at the upper end":  {span: Span{Min: 0, Mean: time.Second, Max: time.Second}, min: 0, max: time.Second, mean: 632 * time.Millisecond},
		"nothing is configured": {},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.NoError(t, tc.span.Validate())
			var sum time.Duration
			const n = 20_000
			for range n {
				d := tc.span.draw()
				require.GreaterOrEqual(t, d, tc.min)
				require.LessOrEqual(t, d, tc.max)
				sum += d
			}
			require.InDelta(t, tc.mean.Seconds(), (sum / n).Seconds(), 0.05)
		})
	}
	require.Error(t, (&Span{Min: 2, Max: 1}).Validate())
	require.Error(t, (&Span{Max: 2, Mean: 3}).Validate())
	require.Error(t, (&Behaviour{Crashes: 1.5}).Validate())
}

func TestBehaviourByPlace(t *testing.T) {
	t.Parallel()
	b := &Behaviour{TaskDuration: Span{Min: time.Minute, Max: time.Minute}}
	instance := garden.ContainerSpec{Env: []garden.EnvVar{{Name: "INSTANCE_INDEX", Value: "0"}}}
	tests := map[string]struct {
		container garden.ContainerSpec
		process   string
		want      simulated.Fate
	}{
		"a setup succeeds":           {container: instance, process: "setup.0"},
		"a monitor succeeds":         {container: instance, process: "monitor-17"},
		"an instance runs on":        {container: instance, process: "action", want: simulated.Fate{UntilSignalled: true}},
		"a sidecar runs on":          {container: instance, process: "sidecar.0", want: simulated.Fate{UntilSignalled: true}},
		"a task ends after its time": {process: "action", want: simulated.Fate{After: time.Minute}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, tc.want, b.run(tc.container, garden.ProcessSpec{ID: tc.process}))
		})
	}
}

func TestCertificatesOfACell(t *testing.T) {
	t.Parallel()
	c := CertificatesConfig{CA: "/ca.crt", Folder: "/certs"}
	require.Equal(t, filepath.Join("/certs", "cell-7.key"), c.of("cell-7").Key)
	require.Error(t, (&CertificatesConfig{}).Validate())
}
