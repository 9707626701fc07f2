package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"
)

// report gathers what is shown at the end.
type report struct {
	began time.Time

	mu      sync.Mutex
	steps   []*step     // guarded by mu
	samples []point     // guarded by mu
	beats   []beat      // guarded by mu
	loads   []load      // guarded by mu; one after each step that leaves instances
	probes  []latencies // written by one step, read after all
}

// step and what was used during it.
type step struct {
	name    string
	from    time.Duration // since the beginning of the report
	took    time.Duration
	done    bool
	notes   []string
	cpu     map[string]float64 // seconds by process
	highest map[string]float64 // MiB by process
}

// point is one sample.
type point struct {
	at     time.Duration
	counts counts
	cores  map[string]float64 // in use by each process since the sample before
	mib    map[string]float64 // resident memory of each process
}

func (r *report) beat(b beat) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.beats = append(r.beats, b)
}

func (r *report) load(l load) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.loads = append(r.loads, l)
}

func (r *report) begin(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.steps = append(r.steps, &step{name: name, from: time.Since(r.began), cpu: map[string]float64{}, highest: map[string]float64{}})
}

func (r *report) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.steps[len(r.steps)-1]
	s.took, s.done = time.Since(r.began)-s.from, true
}

// note adds a remark to the present step.
func (r *report) note(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.steps[len(r.steps)-1]
	s.notes = append(s.notes, fmt.Sprintf(format, args...))
}

// add takes a sample. What was used counts for the present step, and for none between two steps.
func (r *report) add(now counts, used map[string]use) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := point{at: time.Since(r.began), counts: now, cores: map[string]float64{}, mib: map[string]float64{}}
	passed := p.at
	if n := len(r.samples); n > 0 {
		passed -= r.samples[n-1].at
	}
	for name, u := range used {
		p.cores[name], p.mib[name] = u.cpu/max(0.001, passed.Seconds()), u.mib
		if n := len(r.steps); n > 0 && !r.steps[n-1].done {
			s := r.steps[n-1]
			s.cpu[name] += u.cpu
			s.highest[name] = max(s.highest[name], u.mib)
		}
	}
	r.samples = append(r.samples, p)
}

// table is all figures as text.
func (r *report) table(o options) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out strings.Builder
	put(&out, "%d simulated cells, %d instances, %v steady\n\n", o.cells, o.instances, o.steady)
	t := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	put(t, "step\tseconds\t\n")
	for _, s := range r.steps {
		took := fmt.Sprintf("%.1f", s.took.Seconds())
		if !s.done {
			took = "failed"
		}
		put(t, "%s\t%s\t%s\n", s.name, took, strings.Join(s.notes, "; "))
	}
	_ = t.Flush() // into memory
	r.perProcess(&out, "CPU seconds", func(s *step) map[string]float64 { return s.cpu }, "%.1f")
	r.perProcess(&out, "most resident MiB", func(s *step) map[string]float64 { return s.highest }, "%.0f")
	if len(r.loads) > 0 {
		put(&out, "\n")
		t = tabwriter.NewWriter(&out, 0, 0, 2, ' ', tabwriter.AlignRight)
		put(t, "instances per cell after\tfewest\tmean\tmost\tdeviation\tzones differ by\t\n")
		for _, l := range r.loads {
			b := l.balance()
			put(t, "%s\t%d\t%.1f\t%d\t%.2f\t%d\t\n", l.step, b.fewest, b.mean, b.most, b.deviation, b.skew)
		}
		_ = t.Flush() // into memory
	}
	if len(r.probes) > 0 {
		put(&out, "\n")
		t = tabwriter.NewWriter(&out, 0, 0, 2, ' ', tabwriter.AlignRight)
		put(t, "milliseconds while steady\tn\tp50\tp90\tp99\tmost\t\n")
		for _, p := range slices.SortedFunc(slices.Values(r.probes), func(a, b latencies) int { return strings.Compare(a.name, b.name) }) {
			put(t, "%s\t%d\t", p.name, len(p.took))
			for _, share := range []float64{0.5, 0.9, 0.99, 1} {
				put(t, "%.1f\t", float64(p.percentile(share).Microseconds())/1000)
			}
			put(t, "\n")
		}
		_ = t.Flush() // into memory
	}
	return out.String()
}

// perProcess is a table of processes and steps.
func (r *report) perProcess(out *strings.Builder, title string, of func(*step) map[string]float64, format string) {
	names := map[string]bool{}
	put(out, "\n")
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	put(t, "%s\t", title)
	for _, s := range r.steps {
		put(t, "%s\t", s.name)
		for name := range of(s) {
			names[name] = true
		}
	}
	put(t, "\n")
	for _, name := range slices.Sorted(maps.Keys(names)) {
		put(t, "%s\t", name)
		for _, s := range r.steps {
			put(t, format+"\t", of(s)[name])
		}
		put(t, "\n")
	}
	_ = t.Flush() // into memory
}

// put writes to memory, which does not fail.
func put(out io.Writer, format string, args ...any) { _, _ = fmt.Fprintf(out, format, args...) }
