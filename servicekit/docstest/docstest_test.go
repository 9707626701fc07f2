package docstest

import (
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"diego.internal/servicekit/telemetry"
)

// recorder is a test that goes on after a failure and keeps what was wrong.
type recorder struct {
	testing.TB
	failures []string
}

func (*recorder) Helper() {}

func (r *recorder) Errorf(format string, args ...any) {
	r.failures = append(r.failures, fmt.Sprintf(format, args...))
}

// requireFailures wants one failure for each text, in any order.
func (r *recorder) requireFailures(t *testing.T, want ...string) {
	t.Helper()
	require.Len(t, r.failures, len(want), "%v", r.failures)
	all := strings.Join(r.failures, "\n")
	for _, text := range want {
		require.Contains(t, all, text)
	}
}

const metricsPage = `
# Metrics

| not | a table of metrics |
|---|---|
| x | y |

## Every process

| metric | labels | meaning | what to do |
|---|---|---|---|
| ` + "`log_lines_total`" + ` | ` + "`level`" + ` | lines | look |

## one

| metric | labels | meaning | what to do |
|---|---|---|---|
| ` + "`a_total`, `b_total`" + ` | ` + "`x`, `y`" + ` | with \| pipe | nothing |
| ` + "`c`" + ` | | third | |
`

func TestMetrics(t *testing.T) {
	t.Parallel()
	lines := telemetry.MetricName{Name: "log_lines_total", Labels: []string{"level"}}
	a := telemetry.MetricName{Name: "a_total", Labels: []string{"x", "y"}}
	b := telemetry.MetricName{Name: "b_total", Labels: []string{"x", "y"}}
	ignored := telemetry.MetricName{Name: "go_goroutines"}
	p := parsePage("metrics.md", metricsPage)
	check := func(headings []string, names ...telemetry.MetricName) *recorder {
		r := &recorder{TB: t}
		compareMetrics(r, p, names, headings)
		return r
	}
	check([]string{"Every process"}, lines, ignored).requireFailures(t)
	check([]string{"Every process"}).requireFailures(t, "describes log_lines_total")
	check([]string{"Every process"}, lines, a).requireFailures(t, "lacks a_total")
	check([]string{"two"}).requireFailures(t, `no table under "two"`)
	b.Labels = []string{"x"}
	check([]string{"one"}, a, b, telemetry.MetricName{Name: "c"}).requireFailures(t, "b_total has the labels [x], not [x y]", "c has no meaning, or nothing to do about it")
}

type section struct {
	Inner string        `yaml:"inner"`
	Wait  time.Duration `yaml:"wait"`
}

func (s *section) SetDefaults() { s.Wait = time.Minute }

type Shared struct {
	Level string `yaml:"level"`
}

func (s *Shared) SetDefaults() { s.Level = "info" }

type settings struct {
	Shared   `yaml:",inline"`
	Name     string             `yaml:"name"`
	One      section            `yaml:"one"`
	Two      section            `yaml:"two"`
	Optional *section           `yaml:"optional"`
	List     []section          `yaml:"list"`
	ByName   map[string]section `yaml:"by_name"`
	Colours  []string           `yaml:"colours"`
	Network  netip.Prefix       `yaml:"network"`
	Enabled  *bool              `yaml:"enabled"`
	Hidden   string             `yaml:"-"`
}

func (s *settings) SetDefaults() {
	s.Colours = []string{"red", "blue"}
	s.Two.Wait = time.Second
	s.Network, s.Enabled = netip.MustParsePrefix("10.0.0.0/8"), new(true)
}

const configurationPage = `
## good

| key | default | meaning |
|---|---|---|
| ` + "`level`" + ` | ` + "`info`" + ` | how much |
| ` + "`name`" + ` | required | who |
| ` + "`one`, `two`, `optional`, `list[]`, `by_name{}`" + ` | | see [section](#section) |
| ` + "`two.wait`" + ` | ` + "`1s`" + ` | shorter here |
| ` + "`optional.wait`, `list[].wait`, `by_name{}.wait`" + ` | none | no default |
| ` + "`colours`" + ` | ` + "`red, blue`" + ` | which |
| ` + "`network`" + ` | ` + "`10.0.0.0/8`" + ` | where |
| ` + "`enabled`" + ` | ` + "`true`" + ` | whether |

### section

| key | default | meaning |
|---|---|---|
| ` + "`inner`" + ` | none | what |
| ` + "`wait`" + ` | ` + "`60s`" + ` | how long |

## bad

| key | default | meaning |
|---|---|---|
| ` + "`level`" + ` | ` + "`debug`" + ` | how much |
| ` + "`name`" + ` | required | |
| ` + "`one`, `two`, `optional`, `list[]`" + ` | | see [section](#section) |
| ` + "`by_name{}`" + ` | | see [nothing](#nothing) |
| ` + "`colour`" + ` | | misspelt |
`

func TestConfiguration(t *testing.T) {
	t.Parallel()
	var keys []key
	cfg := settings{}
	cfg.Level = "info"
	cfg.One.SetDefaults()
	cfg.Two.SetDefaults()
	cfg.SetDefaults()
	keysOf(reflect.ValueOf(cfg), "", &keys)
	p := parsePage("configuration.md", configurationPage)
	r := &recorder{TB: t}
	compareKeys(r, p, "good", keys)
	r.requireFailures(t)
	r = &recorder{TB: t}
	compareKeys(r, p, "bad", keys)
	r.requireFailures(t,
		`the default of level is info, not "debug"`, "name has no meaning", `the default of two.wait is 1s, not "60s"`,
		`no table under "nothing"`, "lacks by_name{}.inner", "lacks by_name{}.wait", "lacks colours", "lacks network", `lacks enabled (default "true")`, "describes colour under",
	)
}
