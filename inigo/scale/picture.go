package main

import (
	"fmt"
	"html"
	"maps"
	"math"
	"slices"
	"strings"
	"time"
)

// Sizes of the panels in pixels. They lie below each other, the first with the names of the steps above it.
const (
	pictureWidth = 1200
	leftMargin   = 90
	panelWidth   = pictureWidth - leftMargin - 20
	topMargin    = 60
	gap          = 45
	statesHeight = 300
	lineHeight   = 130
	loadHeight   = 70
)

// kinds of records, in the order in which they are stacked, with their colours.
var kinds = []struct { //nolint:gochecknoglobals // a constant table
	name, colour string
	of           func(counts) int
}{
	{"running", "#4c9f70", func(c counts) int { return c.Running }},
	{"claimed", "#e0b63d", func(c counts) int { return c.Claimed }},
	{"unclaimed", "#d1603d", func(c counts) int { return c.Unclaimed }},
	{"crashed", "#8c1c13", func(c counts) int { return c.Crashed }},
	{"evacuating", "#5b7db1", func(c counts) int { return c.Evacuating }},
	{"suspect", "#7a5c8e", func(c counts) int { return c.Suspect }},
}

// colours of lines and zones, taken in turn.
var colours = []string{"#333333", "#4c9f70", "#d1603d", "#5b7db1", "#e0b63d", "#7a5c8e", "#8c1c13", "#2a9d8f"} //nolint:gochecknoglobals // a constant table

// page is an HTML document that needs nothing else: the picture, and the figures as text below it.
func (r *report) page(o options) string {
	title := fmt.Sprintf("%d instances on %d simulated cells", o.instances, o.cells)
	return fmt.Sprintf("<!doctype html>\n<meta charset=\"utf-8\">\n<title>%s</title>\n<body style=\"font-family: sans-serif\">\n<h1>%s</h1>\n%s\n<pre>%s</pre>\n</body>\n",
		title, title, r.picture(), html.EscapeString(r.table(o)))
}

// picture is an SVG element: instances by state, cores and memory by process, and the answer times of the BBS over time; then
// the load of each cell after each step.
func (r *report) picture() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.samples) < 2 {
		return "<p>The run ended before there was anything to show.</p>"
	}
	d := &drawing{span: r.samples[len(r.samples)-1].at, top: topMargin}
	d.states(r.samples)
	d.lines("cores", "%.1f", r.byProcess(func(p point) map[string]float64 { return p.cores }))
	d.lines("MiB", "%.0f", r.byProcess(func(p point) map[string]float64 { return p.mib }))
	d.lines("ms, slowest answer in each second", "%.0f", r.slowest())
	bottom := d.top - gap
	d.marks(r.steps, bottom)
	fmt.Fprintf(&d.out, `<text x="%d" y="%d" text-anchor="end">%.0f s</text>`+"\n", leftMargin+panelWidth, bottom+20, d.span.Seconds())
	for _, l := range r.loads {
		d.load(l)
	}
	return fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="12"><rect width="100%%" height="100%%" fill="white"/>`+"\n%s</svg>",
		pictureWidth, d.top, d.out.String())
}

// series is one line of a panel.
type series struct {
	name   string
	points []xy
}

type xy struct {
	at time.Duration
	y  float64
}

// byProcess makes a line for each process, the ones that use most first.
func (r *report) byProcess(of func(point) map[string]float64) []series {
	byName := map[string]*series{}
	most := map[string]float64{}
	for _, p := range r.samples {
		for name, y := range of(p) {
			s := byName[name]
			if s == nil {
				s = &series{name: name}
				byName[name] = s
			}
			s.points = append(s.points, xy{p.at, y})
			most[name] = max(most[name], y)
		}
	}
	names := slices.SortedFunc(maps.Keys(byName), func(a, b string) int { return int(math.Copysign(1, most[b]-most[a])) })
	out := make([]series, 0, len(colours))
	for _, name := range names[:min(len(names), len(colours))] {
		out = append(out, *byName[name])
	}
	return out
}

// slowest answer of the BBS in each second.
func (r *report) slowest() []series {
	read, write := series{name: "read of one cell's instances"}, series{name: "write of a domain"}
	add := func(s *series, at, took time.Duration) {
		ms := float64(took.Microseconds()) / 1000
		if n := len(s.points); n > 0 && s.points[n-1].at.Truncate(time.Second) == at.Truncate(time.Second) {
			s.points[n-1].y = max(s.points[n-1].y, ms)
			return
		}
		s.points = append(s.points, xy{at, ms})
	}
	for _, b := range r.beats {
		add(&read, b.at, b.read)
		add(&write, b.at, b.write)
	}
	return []series{read, write}
}

// drawing is a picture in the making; top is where the next panel begins.
type drawing struct {
	out  strings.Builder
	span time.Duration
	top  int
}

// x of a time since the beginning.
func (d *drawing) x(at time.Duration) float64 {
	return leftMargin + panelWidth*at.Seconds()/d.span.Seconds()
}

// legend names what the colours of a panel mean, above it.
func (d *drawing) legend(i int, colour, name string) {
	fmt.Fprintf(&d.out, `<rect x="%d" y="%d" width="10" height="10" fill="%s"/><text x="%d" y="%d">%s</text>`+"\n",
		leftMargin+60+125*i, d.top-14, colour, leftMargin+75+125*i, d.top-5, html.EscapeString(name))
}

// frame draws the axes of a panel, says what it shows, and moves on to the next.
func (d *drawing) frame(height int, most, what string) {
	fmt.Fprintf(&d.out, `<path d="M%d %d V%d H%d" fill="none" stroke="black"/>`+"\n", leftMargin, d.top, d.top+height, leftMargin+panelWidth)
	fmt.Fprintf(&d.out, `<text x="%d" y="%d" text-anchor="end">%s</text><text x="%d" y="%d">%s</text>`+"\n",
		leftMargin-6, d.top+10, most, 4, d.top-5, html.EscapeString(what))
	d.top += height + gap
}

func (d *drawing) states(samples []point) {
	highest := 1
	for _, p := range samples {
		sum := 0
		for _, k := range kinds {
			sum += k.of(p.counts)
		}
		highest = max(highest, sum)
	}
	y := func(n int) float64 { return float64(d.top) + statesHeight*(1-float64(n)/float64(highest)) }
	below := make([]int, len(samples))
	last := len(samples) - 1
	for i, k := range kinds {
		var there, back strings.Builder
		for j, p := range samples {
			fmt.Fprintf(&there, "%.1f,%.1f ", d.x(p.at), y(below[j]+k.of(p.counts)))
			fmt.Fprintf(&back, "%.1f,%.1f ", d.x(samples[last-j].at), y(below[last-j]))
		}
		for j, p := range samples {
			below[j] += k.of(p.counts)
		}
		fmt.Fprintf(&d.out, `<polygon points="%s%s" fill="%s"/>`+"\n", there.String(), back.String(), k.colour)
		fmt.Fprintf(&d.out, `<rect x="%d" y="8" width="12" height="12" fill="%s"/><text x="%d" y="19">%s</text>`+"\n",
			leftMargin+60+125*i, k.colour, leftMargin+77+125*i, k.name)
	}
	d.frame(statesHeight, fmt.Sprint(highest), "instances")
}

func (d *drawing) lines(what, format string, all []series) {
	highest := 1.0
	for _, s := range all {
		for _, p := range s.points {
			highest = max(highest, p.y)
		}
	}
	for i, s := range all {
		var line strings.Builder
		for _, p := range s.points {
			fmt.Fprintf(&line, "%.1f,%.1f ", d.x(p.at), float64(d.top)+lineHeight*(1-p.y/highest))
		}
		fmt.Fprintf(&d.out, `<polyline points="%s" fill="none" stroke="%s"/>`+"\n", line.String(), colours[i%len(colours)])
		if len(all) > 2 {
			d.legend(i, colours[i%len(colours)], s.name)
		} else {
			d.legend(2+2*i, colours[i%len(colours)], s.name)
		}
	}
	d.frame(lineHeight, fmt.Sprintf(format, highest), what)
}

// marks where the steps begin, down to bottom.
func (d *drawing) marks(steps []*step, bottom int) {
	for i, s := range steps {
		x := d.x(s.from)
		fmt.Fprintf(&d.out, `<line x1="%.1f" y1="%d" x2="%.1f" y2="%d" stroke="#999" stroke-dasharray="3 3"/>`+"\n", x, topMargin, x, bottom)
		// Names of short steps would cover each other in one line.
		fmt.Fprintf(&d.out, `<text x="%.1f" y="%d">%s</text>`+"\n", x+3, topMargin-20+12*(i%2), html.EscapeString(s.name))
	}
}

// load draws a bar for each cell, in the colour of its zone.
func (d *drawing) load(l load) {
	b := l.balance()
	zones := map[string]int{}
	width := float64(panelWidth) / float64(max(1, len(l.cells)))
	for i, c := range l.cells {
		if _, known := zones[c.zone]; !known {
			zones[c.zone] = len(zones)
		}
		height := float64(loadHeight*c.instances) / float64(max(1, b.most))
		fmt.Fprintf(&d.out, `<rect x="%.2f" y="%.2f" width="%.2f" height="%.2f" fill="%s"/>`+"\n",
			leftMargin+width*float64(i), float64(d.top)+loadHeight-height, width, height, colours[1+zones[c.zone]%(len(colours)-1)])
	}
	d.frame(loadHeight, fmt.Sprint(b.most), fmt.Sprintf("instances per cell after %q: %d to %d, mean %.1f, deviation %.2f; zones differ by %d", l.step, b.fewest, b.most, b.mean, b.deviation, b.skew))
}
