package logs

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

// On disk a log is a sequence of frames: four bytes of length, then a kind and its payload. Tags change rarely, so they
// have frames of their own and hold for the lines after them; every segment starts with one.
const (
	frameLine = 1
	frameTags = 2

	frameHeader = 4
	lineHeader  = 1 + 8 + 1 + 2
	maxFrame    = 1 << 20
)

var errBadFrame = errors.New("log frame is damaged")

type tagSet struct{ values map[string]string }

type entry struct {
	time    time.Time
	stream  Stream
	source  string
	message string
	tags    *tagSet
}

func (e entry) size() int { return frameHeader + lineHeader + len(e.source) + len(e.message) }

func appendLine(buf []byte, e entry) []byte {
	source := cutText(e.source, 1<<15)
	buf = binary.BigEndian.AppendUint32(buf, uint32(lineHeader+len(source)+len(e.message))) //nolint:gosec // bounded by MaxLine
	buf = append(buf, frameLine)
	buf = binary.BigEndian.AppendUint64(buf, uint64(e.time.UnixNano()))
	buf = append(buf, byte(e.stream))
	buf = binary.BigEndian.AppendUint16(buf, uint16(len(source))) //nolint:gosec // cut above
	buf = append(buf, source...)
	return append(buf, e.message...)
}

func appendTags(buf []byte, tags *tagSet) []byte {
	var values map[string]string
	if tags != nil {
		values = tags.values
	}
	encoded, err := json.Marshal(values)
	if err != nil || len(encoded) >= maxFrame {
		encoded = []byte("{}") // tags of such a size are of no use to a reader
	}
	buf = binary.BigEndian.AppendUint32(buf, uint32(1+len(encoded))) //nolint:gosec // bounded above
	buf = append(buf, frameTags)
	return append(buf, encoded...)
}

// scanner reads the frames of one segment.
type scanner struct {
	in     *bufio.Reader
	tags   map[string]string
	offset int64 // behind the last whole frame
}

func newScanner(in io.Reader) *scanner { return &scanner{in: bufio.NewReaderSize(in, 64<<10)} }

// next returns the next line. io.EOF means that no whole frame is left.
func (s *scanner) next() (Line, error) {
	for {
		var header [frameHeader]byte
		if _, err := io.ReadFull(s.in, header[:]); err != nil {
			return Line{}, io.EOF
		}
		size := binary.BigEndian.Uint32(header[:])
		if size == 0 || size > maxFrame {
			return Line{}, fmt.Errorf("frame of %d bytes: %w", size, errBadFrame)
		}
		payload := make([]byte, size)
		if _, err := io.ReadFull(s.in, payload); err != nil {
			return Line{}, io.EOF
		}
		line, isLine, err := s.decode(payload)
		if err != nil {
			return Line{}, err
		}
		s.offset += int64(frameHeader) + int64(size)
		if isLine {
			return line, nil
		}
	}
}

func (s *scanner) decode(payload []byte) (line Line, isLine bool, err error) {
	switch payload[0] {
	case frameTags:
		s.tags = nil
		if err := json.Unmarshal(payload[1:], &s.tags); err != nil {
			return Line{}, false, fmt.Errorf("decoding tags: %w", err)
		}
		return Line{}, false, nil
	case frameLine:
		if len(payload) < lineHeader {
			return Line{}, false, errBadFrame
		}
		at := int64(binary.BigEndian.Uint64(payload[1:9])) //nolint:gosec // written by appendLine
		sourceLen := int(binary.BigEndian.Uint16(payload[10:12]))
		if len(payload) < lineHeader+sourceLen {
			return Line{}, false, errBadFrame
		}
		return Line{
			Time:    time.Unix(0, at),
			Stream:  Stream(payload[9]),
			Source:  string(payload[lineHeader : lineHeader+sourceLen]),
			Message: string(payload[lineHeader+sourceLen:]),
			Tags:    s.tags,
		}, true, nil
	default:
		return Line{}, false, errBadFrame
	}
}
