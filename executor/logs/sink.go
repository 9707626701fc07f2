package logs

import (
	"maps"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// DefaultSource is the source type of lines that nobody named.
const DefaultSource = "LOG"

// SinkConfig says how the lines of one container are marked and limited.
type SinkConfig struct {
	// GUID is the default source_id. Without it the container's own output is discarded.
	GUID string
	// Index of the instance; negative for none.
	Index int
	// Source is used where a stream names none.
	Source string
	// Tags are the metric tags; a source_id or instance_id among them wins.
	Tags map[string]string
	// BytesPerSecond is -1 for unlimited and 0 for nothing; LinesPerSecond 0 is off.
	BytesPerSecond int64
	LinesPerSecond int
}

// Counters of all logs of a cell. They only grow.
type Counters struct {
	// RateExceeded counts how often a limit was exceeded (AppInstanceExceededLogRateLimitCount).
	RateExceeded atomic.Int64
	// LinesDropped and BytesDropped are what limits kept out; of a line that was cut only the bytes count.
	LinesDropped atomic.Int64
	BytesDropped atomic.Int64
	// LinesLost are those that the disk was too slow for.
	LinesLost atomic.Int64
}

// Sink takes the lines of one container. Its methods may be called concurrently and never wait for a reader or the disk.
type Sink struct {
	log      *file // nil discards
	counters *Counters

	mu       sync.Mutex
	cfg      SinkConfig
	tags     *tagSet // nil until somebody asks for it
	limit    limiter
	bytes    int64
	exceeded int64
	dropped  int64
	sampled  time.Time
	rate     float64
}

func newSink(log *file, cfg SinkConfig, counters *Counters) *Sink {
	now := time.Now()
	return &Sink{log: log, counters: counters, cfg: cfg, limit: newLimiter(cfg.BytesPerSecond, cfg.LinesPerSecond, now), sampled: now}
}

// SetTags replaces the metric tags from the next line on. They must not be written to afterwards.
func (s *Sink) SetTags(tags map[string]string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cfg.Tags, s.tags = tags, nil
}

// Tags that lines carry now. Not to be written to.
func (s *Sink) Tags() map[string]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tagsLocked().values
}

// tagsLocked makes the tags once for all lines that have them in common.
func (s *Sink) tagsLocked() *tagSet {
	if s.tags == nil {
		merged := map[string]string{"source_id": s.cfg.GUID}
		if s.cfg.Index >= 0 {
			merged["instance_id"] = strconv.Itoa(s.cfg.Index)
		}
		maps.Copy(merged, s.cfg.Tags)
		s.tags = &tagSet{values: merged}
	}
	return s.tags
}

// Writer returns a new splitter for a source ("" = the container's) and a stream.
func (s *Sink) Writer(source string, stream Stream) *Writer {
	return NewWriter(func(message string) { s.Emit(source, stream, message) })
}

// Emit logs one message under the limits of the container.
func (s *Sink) Emit(source string, stream Stream, message string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cfg.GUID == "" || message == "" {
		return
	}
	now := time.Now()
	allowed, report := s.limit.admit(len(message), now)
	passed := cutText(message, allowed)
	if passed != "" {
		s.bytes += int64(len(passed))
		s.append(now, source, stream, passed)
	} else {
		s.dropped++
		s.counters.LinesDropped.Add(1)
	}
	s.counters.BytesDropped.Add(int64(len(message) - len(passed)))
	if report != "" {
		s.exceeded++
		s.counters.RateExceeded.Add(1)
		s.append(now, source, Err, report)
	}
}

// Platform logs a message of the cell itself, past all limits.
func (s *Sink) Platform(stream Stream, message string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.append(time.Now(), "CELL", stream, message)
}

// append is called with the lock held, so that lines keep the order of their times.
func (s *Sink) append(now time.Time, source string, stream Stream, message string) {
	if s.log == nil {
		return
	}
	if source == "" {
		source = s.cfg.Source
	}
	if source == "" {
		source = DefaultSource
	}
	s.log.append(entry{time: now, stream: stream, source: source, message: message, tags: s.tagsLocked()})
}

// Rate returns the bytes per second that passed the limits since it was last asked, at least a second ago.
func (s *Sink) Rate() float64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if elapsed := now.Sub(s.sampled); elapsed >= time.Second {
		s.rate = float64(s.bytes) / elapsed.Seconds()
		s.bytes, s.sampled = 0, now
	}
	return s.rate
}

// Exceeded counts how often a limit was exceeded, and the lines that were dropped because of it.
func (s *Sink) Exceeded() (times, lines int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.exceeded, s.dropped
}
