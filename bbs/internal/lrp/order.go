package lrp

import (
	"cmp"
	"strings"
)

func compareGUID(a, b string) int { return strings.Compare(a, b) }

// Compare orders keys by process guid and index.
func (k Key) Compare(o Key) int {
	if c := compareGUID(k.ProcessGUID, o.ProcessGUID); c != 0 {
		return c
	}
	return cmp.Compare(k.Index, o.Index)
}

func compareRows(a, b *Actual) int {
	if c := a.Key.Compare(b.Key); c != 0 {
		return c
	}
	return cmp.Compare(a.Presence, b.Presence)
}
