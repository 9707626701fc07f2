package batch

import (
	lru "github.com/hashicorp/golang-lru/v2"

	"diego.internal/auctioneer/internal/work"
)

// historySize is how many refusals are remembered.
const historySize = 10_000

// Refused is a refusal that is remembered.
type Refused struct {
	Work *work.Work
	Text string
	// Counts are the numbers of cells by reason.
	Counts map[string]int
}

// History remembers the last refusals, one per key, until the work is placed or too
// many others came. It is safe for concurrent use.
type History struct{ last *lru.Cache[work.Key, Refused] }

// NewHistory makes an empty history.
func NewHistory() *History {
	last, err := lru.New[work.Key, Refused](historySize)
	if err != nil {
		panic(err) // only for a size below one
	}
	return &History{last: last}
}

// Last returns the last refusal of a piece of work.
func (h *History) Last(key work.Key) (Refused, bool) { return h.last.Get(key) }

func (h *History) refused(w *work.Work, text string, counts map[string]int) {
	h.last.Add(w.Key(), Refused{Work: w, Text: text, Counts: counts})
}

func (h *History) placed(w *work.Work) { h.last.Remove(w.Key()) }
