package workload

import (
	"strings"
	"testing"
	"unicode/utf8"
)

func TestReason(t *testing.T) {
	t.Parallel()
	tests := map[string]struct{ in, want string }{
		"short":           {"oom", "oom"},
		"as long as fits": {strings.Repeat("x", 1024), strings.Repeat("x", 1024)},
		"one byte longer": {strings.Repeat("x", 1025), strings.Repeat("x", 1013) + "(truncated)"},
		"within a rune":   {strings.Repeat("ü", 600), strings.Repeat("ü", 506) + "(truncated)"},
		"four-byte runes": {strings.Repeat("😀", 300), strings.Repeat("😀", 253) + "(truncated)"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := Reason(test.in)
			if got != test.want {
				t.Errorf("Reason = %d bytes %q...", len(got), got[max(0, len(got)-20):])
			}
			if len(got) > MaxReasonBytes || !utf8.ValidString(got) {
				t.Errorf("Reason has %d bytes, valid %v", len(got), utf8.ValidString(got))
			}
		})
	}
}
