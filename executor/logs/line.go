// Package logs turns what processes write into lines, limits their rate, and keeps the newest of each container on disk,
// where any number of readers can follow them. It does not send them anywhere.
package logs

import "time"

// Stream says where a line was written.
type Stream uint8

// The streams.
const (
	Out Stream = iota + 1
	Err
)

// Line is one message of a container, at most MaxLine bytes.
type Line struct {
	Time   time.Time
	Stream Stream
	// Source is the source type, such as "APP/PROC/WEB", "CELL" or "HEALTH".
	Source string
	// Message has no line end.
	Message string
	// Tags are source_id, instance_id and the metric tags of the container. Shared, not to be written to.
	Tags map[string]string
}

// MaxLine is the largest message in bytes; a longer line goes on in the next message.
const MaxLine = 61440

// Request says what to read.
type Request struct {
	// Since leaves out lines of that time or older; zero keeps all.
	Since time.Time
	// Tail keeps only the newest n of the lines that are already there; zero keeps all.
	Tail int
	// Follow goes on with the lines to come.
	Follow bool
}
