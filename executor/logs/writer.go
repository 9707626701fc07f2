package logs

import (
	"bytes"
	"strings"
	"sync"
	"unicode/utf8"
)

// Writer splits what is written into lines for one source and stream. Write never fails and never waits for a reader or
// the disk. Flush must be called when the writer's process has ended, for a last line without an end.
type Writer struct {
	emit func(message string)

	mu  sync.Mutex
	buf []byte
}

// NewWriter returns a writer that hands every line to emit.
func NewWriter(emit func(message string)) *Writer { return &Writer{emit: emit} }

// Write takes any piece of output.
func (w *Writer) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := len(p)
	for len(p) > 0 {
		end := bytes.IndexAny(p, "\r\n")
		if end < 0 {
			w.gather(p)
			break
		}
		w.gather(p[:end])
		w.flush()
		p = p[end+1:]
	}
	return n, nil
}

// Flush emits what has been written since the last line end.
func (w *Writer) Flush() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.flush()
}

// gather adds to the line under way and emits it in parts when it grows too long.
func (w *Writer) gather(p []byte) {
	for len(w.buf)+len(p) > MaxLine {
		take := MaxLine - len(w.buf)
		// The last character may be cut by the bound: the part ends before it, and the next part starts with it.
		w.buf = append(w.buf, p[:take]...)
		rest := p[take]
		cut := MaxLine
		if !utf8.RuneStart(rest) {
			for back := 1; back < utf8.UTFMax; back++ {
				if utf8.RuneStart(w.buf[MaxLine-back]) {
					cut = MaxLine - back
					break
				}
			}
		}
		w.emit(clean(w.buf[:cut]))
		w.buf = append(w.buf[:0], w.buf[cut:]...)
		p = p[take:]
	}
	w.buf = append(w.buf, p...)
}

func (w *Writer) flush() {
	if len(w.buf) == 0 {
		return
	}
	w.emit(clean(w.buf))
	w.buf = w.buf[:0]
}

// clean makes valid UTF-8 of a message, because it travels as text.
func clean(message []byte) string {
	return cutText(strings.ToValidUTF8(string(message), "\uFFFD"), MaxLine)
}

// cutText shortens text to at most limit bytes at a border between characters.
func cutText(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	for limit > 0 && !utf8.RuneStart(text[limit]) {
		limit--
	}
	return text[:limit]
}
