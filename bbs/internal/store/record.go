package store

import (
	"bytes"
	"slices"
	"strings"
	"unsafe"

	"diego.internal/bbs/internal/lrp"
	"diego.internal/bbs/internal/wire"
)

// actualRow is a record with its encoding, which lists, watchers and the log send as it is. The texts of the record are parts of
// the encoding, so that they are in memory once.
type actualRow struct {
	*lrp.Actual
	encoded []byte
}

func (r *actualRow) key() actualKey { return actualKeyOf(r.Key, r.Presence) }

// recordEncoder encodes records that become the store's. It is memory to encode into, that is used again: what is kept is a copy that
// has no room to spare.
type recordEncoder []byte

// actual encodes a record as workload.v1.ActualLRP.
func (e *recordEncoder) actual(a *lrp.Actual) *actualRow {
	*e = wire.AppendActual((*e)[:0], a)
	return packActual(a, bytes.Clone(*e))
}

// desired encodes a record as workload.v1.SchedulingInfo, of which its texts and the values of its routes become parts. Secret
// routes and the older definitions are not in there.
func (e *recordEncoder) desired(d *lrp.Desired) {
	*e = wire.AppendSchedulingInfo((*e)[:0], d)
	packDesired(d, bytes.Clone(*e))
}

// packActual makes the texts of a record parts of its encoding.
func packActual(a *lrp.Actual, encoded []byte) *actualRow {
	p := packer{text: textOf(encoded)}
	// In the order of the encoding, so that each is found where the one before ends. What the record shares with the one that it
	// was made from is copied: others read that.
	p.pack(&a.ProcessGUID, &a.Domain, &a.InstanceGUID, &a.CellID)
	if a.NetInfo != nil {
		net := *a.NetInfo
		net.Ports = slices.Clone(net.Ports)
		p.pack(&net.Address, &net.InstanceAddress, &net.InstanceIPv6Address)
		a.NetInfo = &net
	}
	p.pack(&a.CrashReason, &a.PlacementError)
	a.InternalRoutes, a.MetricTags = slices.Clone(a.InternalRoutes), slices.Clone(a.MetricTags)
	for i := range a.InternalRoutes {
		p.pack(&a.InternalRoutes[i])
	}
	for i := range a.MetricTags {
		p.pack(&a.MetricTags[i].Name, &a.MetricTags[i].Value)
	}
	p.pack(&a.Zone, &a.DefinitionID, &a.Tag.Epoch)
	return &actualRow{Actual: a, encoded: encoded}
}

// packDesired makes the texts of a record parts of its encoding, and conceals its secret route.
func packDesired(d *lrp.Desired, info []byte) {
	d.Encoded = info
	p := packer{text: textOf(info)}
	p.pack(&d.ProcessGUID, &d.Domain, &d.LogGUID, &d.Annotation, &d.Placement.RootFS)
	d.Routes, d.MetricTags, d.InternalHostnames = slices.Clone(d.Routes), slices.Clone(d.MetricTags), slices.Clone(d.InternalHostnames)
	for i := range d.Routes {
		route := &d.Routes[i]
		if route.Router == wire.SecretRouter {
			route.Router, route.Value = wire.SecretRouter, lrp.Conceal(route.Value)
		} else {
			p.pack(&route.Router)
			if at := p.find(textOf(route.Value)); at >= 0 {
				route.Value = slices.Clip(info[at : at+len(route.Value)])
			}
		}
	}
	for i := range d.MetricTags {
		p.pack(&d.MetricTags[i].Name, &d.MetricTags[i].Static)
	}
	p.pack(&d.ActiveDefinitionID, &d.Tag.Epoch)
	for _, id := range [...]*string{&d.HealthyDefinitionID, &d.PreviousDefinitionID} {
		if *id == d.ActiveDefinitionID {
			*id = d.ActiveDefinitionID
		}
	}
	p.at = 0 // the names are in the value of a route
	for i := range d.InternalHostnames {
		p.pack(&d.InternalHostnames[i])
	}
}

// packer replaces texts by equal parts of one longer text, which then holds them all in one piece of memory.
type packer struct {
	text string
	at   int // where the search begins
}

// pack replaces each text that the longer one has, from where the one before ends.
func (p *packer) pack(texts ...*string) {
	for _, text := range texts {
		if at := p.find(*text); at >= 0 {
			*text = p.text[at : at+len(*text)]
		}
	}
}

// find returns where the text is, or -1. An empty text is nowhere.
func (p *packer) find(text string) int {
	if text == "" {
		return -1
	}
	at := strings.Index(p.text[p.at:], text)
	if at < 0 {
		return -1
	}
	at += p.at
	p.at = at + len(text)
	return at
}

// textOf returns bytes that nobody changes any more as a text, without copying them.
func textOf(b []byte) string {
	return unsafe.String(unsafe.SliceData(b), len(b)) //nolint:gosec // encodings are immutable
}
