package telemetry

import (
	"cmp"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
)

// MetricName is one metric that a process has, whether or not it has a value yet: a counter with labels appears
// in /metrics only once something was counted, which is late for somebody who writes an alarm.
type MetricName struct {
	Name   string   `json:"name"`
	Labels []string `json:"labels,omitempty"` // sorted
	Help   string   `json:"help"`
}

// MetricNames returns the metrics of the process in the order of their names. Those of collectors that do not
// describe themselves are missing until they have a value.
func (t *Telemetry) MetricNames() ([]MetricName, error) {
	names := map[string]MetricName{}
	descriptions := make(chan *prometheus.Desc)
	go func() { t.Registry.Describe(descriptions); close(descriptions) }()
	for d := range descriptions {
		if n, ok := parseDesc(d.String()); ok {
			names[n.Name] = n
		}
	}
	families, err := t.Registry.Gather()
	for _, family := range families {
		if _, known := names[family.GetName()]; known || len(family.GetMetric()) == 0 {
			continue
		}
		n := MetricName{Name: family.GetName(), Help: family.GetHelp()}
		for _, label := range family.GetMetric()[0].GetLabel() {
			n.Labels = append(n.Labels, label.GetName())
		}
		slices.Sort(n.Labels)
		names[n.Name] = n
	}
	all := make([]MetricName, 0, len(names))
	for _, n := range names {
		all = append(all, n)
	}
	slices.SortFunc(all, func(a, b MetricName) int { return cmp.Compare(a.Name, b.Name) })
	return all, err
}

// A description shows what it holds in its text only.
var (
	descName   = regexp.MustCompile(`fqName: ("(?:[^"\\]|\\.)*")`)
	descHelp   = regexp.MustCompile(`help: ("(?:[^"\\]|\\.)*")`)
	descConst  = regexp.MustCompile(`([a-zA-Z_][a-zA-Z0-9_]*)="(?:[^"\\]|\\.)*"`)
	descLabels = regexp.MustCompile(`constLabels: \{(.*)\}, variableLabels: \{(.*)\}\}$`)
)

func parseDesc(text string) (MetricName, bool) {
	name, help, labels := descName.FindStringSubmatch(text), descHelp.FindStringSubmatch(text), descLabels.FindStringSubmatch(text)
	if name == nil || help == nil || labels == nil {
		return MetricName{}, false
	}
	var n MetricName
	var err error
	if n.Name, err = strconv.Unquote(name[1]); err != nil || n.Name == "" {
		return MetricName{}, false
	}
	if n.Help, err = strconv.Unquote(help[1]); err != nil {
		return MetricName{}, false
	}
	for _, label := range descConst.FindAllStringSubmatch(labels[1], -1) {
		n.Labels = append(n.Labels, label[1])
	}
	if labels[2] != "" {
		n.Labels = append(n.Labels, strings.Split(labels[2], ",")...)
	}
	slices.Sort(n.Labels)
	return n, true
}

func (t *Telemetry) serveNames(w http.ResponseWriter, _ *http.Request) {
	names, err := t.MetricNames()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	t.writeJSON(w, http.StatusOK, names)
}
