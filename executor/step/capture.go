package step

import (
	"strings"
	"sync"

	"diego.internal/executor/logs"
)

// maxCaptured bounds the output of one attempt; the end of it tells most.
const maxCaptured = 8 << 10

// capture keeps what an attempt of a monitor writes.
type capture struct {
	mu    sync.Mutex
	lines []string
	size  int
}

func (c *capture) Writer(_ string, _ logs.Stream) *logs.Writer { return logs.NewWriter(c.add) }

func (c *capture) Emit(_ string, _ logs.Stream, message string) { c.add(message) }

func (c *capture) add(line string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lines, c.size = append(c.lines, line), c.size+len(line)
	for c.size > maxCaptured && len(c.lines) > 1 {
		c.size -= len(c.lines[0])
		c.lines = c.lines[1:]
	}
}

// take returns and forgets.
func (c *capture) take() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	text := strings.Join(c.lines, "\n")
	c.lines, c.size = nil, 0
	return text
}
