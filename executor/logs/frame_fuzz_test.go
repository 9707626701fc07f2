package logs

import (
	"bytes"
	"testing"
	"time"
)

// FuzzScanner reads a segment that was written by halves, by another release, or by nobody. It must end,
// and never claim more than there is.
func FuzzScanner(f *testing.F) {
	whole := appendLine(appendTags(nil, &tagSet{values: map[string]string{"a": "b"}}), entry{time: time.Unix(1, 2), source: "APP", message: "hello"})
	f.Add(whole)
	f.Add(whole[:len(whole)-1])
	f.Add([]byte{0, 0, 0, 1, frameTags})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, data []byte) {
		s := newScanner(bytes.NewReader(data))
		for n := 0; ; n++ {
			if _, err := s.next(); err != nil {
				break // whatever it is, the segment ends there
			}
			if n > len(data) {
				t.Fatal("more lines than bytes")
			}
		}
		if s.offset > int64(len(data)) {
			t.Fatalf("%d bytes were understood of %d", s.offset, len(data))
		}
	})
}
