package main

import (
	"fmt"
	"strings"
)

// Sizes of the picture in pixels: two panels below each other, with the names of the steps above them.
const (
	pictureWidth = 1200
	leftMargin   = 90
	panelWidth   = pictureWidth - leftMargin - 20
	topMargin    = 60
	upperHeight  = 340
	lowerTop     = topMargin + upperHeight + 50
	lowerHeight  = 120
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

// picture is an SVG document: instances by state over time, and the processor cores in use below.
func (r *report) picture(o options) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out strings.Builder
	fmt.Fprintf(&out, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="12">`+"\n",
		pictureWidth, lowerTop+lowerHeight+40)
	fmt.Fprintf(&out, `<rect width="100%%" height="100%%" fill="white"/><text x="%d" y="20" font-size="15">%d instances on %d simulated cells</text>`+"\n",
		leftMargin, o.instances, o.cells)
	if len(r.samples) > 1 {
		r.drawStates(&out)
		r.drawCores(&out)
		r.drawSteps(&out)
	}
	out.WriteString("</svg>\n")
	return out.String()
}

// x of a time in seconds since the beginning.
func (r *report) x(seconds float64) float64 {
	return leftMargin + panelWidth*seconds/r.samples[len(r.samples)-1].at.Seconds()
}

func (r *report) drawStates(out *strings.Builder) {
	highest := 1
	for _, p := range r.samples {
		sum := 0
		for _, k := range kinds {
			sum += k.of(p.counts)
		}
		highest = max(highest, sum)
	}
	y := func(n int) float64 { return topMargin + upperHeight*(1-float64(n)/float64(highest)) }
	below := make([]int, len(r.samples))
	for i, k := range kinds {
		var there, back strings.Builder
		last := len(r.samples) - 1
		for j, p := range r.samples {
			fmt.Fprintf(&there, "%.1f,%.1f ", r.x(p.at.Seconds()), y(below[j]+k.of(p.counts)))
			fmt.Fprintf(&back, "%.1f,%.1f ", r.x(r.samples[last-j].at.Seconds()), y(below[last-j]))
		}
		for j, p := range r.samples {
			below[j] += k.of(p.counts)
		}
		fmt.Fprintf(out, `<polygon points="%s%s" fill="%s"/>`+"\n", there.String(), back.String(), k.colour)
		fmt.Fprintf(out, `<rect x="%d" y="8" width="12" height="12" fill="%s"/><text x="%d" y="19">%s</text>`+"\n",
			500+110*i, k.colour, 517+110*i, k.name)
	}
	axis(out, topMargin, upperHeight, fmt.Sprint(highest), "instances")
}

func (r *report) drawCores(out *strings.Builder) {
	highest := 1.0
	for _, p := range r.samples {
		highest = max(highest, p.cores)
	}
	var line strings.Builder
	for _, p := range r.samples {
		fmt.Fprintf(&line, "%.1f,%.1f ", r.x(p.at.Seconds()), lowerTop+lowerHeight*(1-p.cores/highest))
	}
	fmt.Fprintf(out, `<polyline points="%s" fill="none" stroke="#333"/>`+"\n", line.String())
	axis(out, lowerTop, lowerHeight, fmt.Sprintf("%.1f", highest), "cores")
	fmt.Fprintf(out, `<text x="%d" y="%d" text-anchor="end">%.0f s</text>`+"\n",
		leftMargin+panelWidth, lowerTop+lowerHeight+20, r.samples[len(r.samples)-1].at.Seconds())
}

func axis(out *strings.Builder, top, height int, most, what string) {
	fmt.Fprintf(out, `<path d="M%d %d V%d H%d" fill="none" stroke="black"/>`+"\n", leftMargin, top, top+height, leftMargin+panelWidth)
	fmt.Fprintf(out, `<text x="%d" y="%d" text-anchor="end">%s</text><text x="%d" y="%d" text-anchor="end">%s</text>`+"\n",
		leftMargin-6, top+10, most, leftMargin-6, top+height/2, what)
}

func (r *report) drawSteps(out *strings.Builder) {
	for i, s := range r.steps {
		x := r.x(s.from.Seconds())
		fmt.Fprintf(out, `<line x1="%.1f" y1="%d" x2="%.1f" y2="%d" stroke="#999" stroke-dasharray="3 3"/>`+"\n", x, topMargin, x, lowerTop+lowerHeight)
		// Names of short steps would cover each other in one line.
		fmt.Fprintf(out, `<text x="%.1f" y="%d">%s</text>`+"\n", x+3, topMargin-18+12*(i%2), s.name)
	}
}
