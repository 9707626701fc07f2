package telemetry

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"math"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"
)

const (
	// maxString is the longest string of a log line, in characters.
	maxString = 640
	truncated = "-(truncated)"
	redacted  = "*REDACTED*"
)

// add puts attributes into the data of a line: readable, cut, and without secrets.
func add(data map[string]any, attrs []slog.Attr) {
	for _, a := range attrs {
		addOne(data, a)
	}
}

func addOne(data map[string]any, a slog.Attr) {
	v := a.Value.Resolve()
	if v.Kind() != slog.KindGroup {
		if a.Key != "" {
			data[a.Key] = field(a.Key, plain(v))
		}
		return
	}
	group := data
	if a.Key != "" { // a group without a name is inlined
		if len(v.Group()) == 0 {
			return
		}
		group = make(map[string]any, len(v.Group()))
		data[a.Key] = group
	}
	add(group, v.Group())
}

// plain returns a value that JSON can hold. Any text in it has been cleaned.
func plain(v slog.Value) any {
	switch v.Kind() { //nolint:exhaustive // the rest is any
	case slog.KindString:
		return clean(v.String())
	case slog.KindInt64:
		return v.Int64()
	case slog.KindUint64:
		return v.Uint64()
	case slog.KindFloat64:
		return number(v.Float64())
	case slog.KindBool:
		return v.Bool()
	case slog.KindDuration:
		return v.Duration().String()
	case slog.KindTime:
		return v.Time().UTC().Format(time.RFC3339Nano)
	default:
		return structured(v.Any())
	}
}

// number keeps what JSON has no number for as text.
func number(f float64) any {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return fmt.Sprint(f)
	}
	return f
}

// structured handles values of any type. A method of the value that panics must not take the process
// with it: this is only a log line.
func structured(v any) (out any) {
	defer func() {
		if p := recover(); p != nil {
			out = clean(fmt.Sprintf("!PANIC: %v", p))
		}
	}()
	switch x := v.(type) {
	case nil:
		return nil
	case error:
		return clean(x.Error())
	case proto.Message:
		// Messages hold environment values and credentials, and their text is not stable.
		return "<" + string(x.ProtoReflect().Descriptor().FullName()) + ">"
	case fmt.Stringer:
		return clean(x.String())
	case []byte:
		return fmt.Sprintf("<%d bytes>", len(x))
	case []string:
		items := make([]any, len(x))
		for i, s := range x {
			items[i] = clean(s)
		}
		return items
	}
	encoded, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprintf("<%T>", v)
	}
	var decoded any
	if err := json.Unmarshal(encoded, &decoded); err != nil {
		return fmt.Sprintf("<%T>", v)
	}
	return walk(decoded)
}

// walk cleans what came out of JSON.
func walk(v any) any {
	switch x := v.(type) {
	case string:
		return clean(x)
	case []any:
		for i := range x {
			x[i] = walk(x[i])
		}
	case map[string]any:
		for key, value := range x {
			x[key] = field(key, walk(value))
		}
	}
	return v
}

// secretKeys are parts of attribute names whose text is never shown.
var secretKeys = []string{
	"password", "passwd", "passphrase", "secret", "credential", "private_key", "authorization", "cookie", "token", "environment",
}

// field hides the value of a key that names a secret. Numbers stay: a fencing token is no secret;
// and so do paths: configuration names secrets by file.
func field(key string, value any) any {
	switch value.(type) {
	case string, []any, map[string]any:
	default:
		return value
	}
	key = strings.ToLower(key)
	if key == "env" {
		return redacted
	}
	if strings.HasSuffix(key, "_file") || strings.HasSuffix(key, "_path") {
		return value
	}
	for _, part := range secretKeys {
		if strings.Contains(key, part) {
			return redacted
		}
	}
	return value
}

var (
	urlUser     = regexp.MustCompile(`([a-zA-Z][a-zA-Z0-9+.-]*://)[^/\s@"']*@`)
	urlQuery    = regexp.MustCompile(`([a-zA-Z][a-zA-Z0-9+.-]*://[^\s?"']*)\?[^\s"']*`)
	assignment  = regexp.MustCompile(`(?i)((?:password|passphrase|secret)\s*[=:]\s*)("[^"]*"|'[^']*'|[^\s,;&"']+)`)
	privateKey  = regexp.MustCompile(`(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|$)`)
	secretWords = []string{"assword", "assphrase", "ecret", "PASSWORD", "PASSPHRASE", "SECRET"}
)

// clean removes from a text the secrets that can be told by their form, and cuts it. The checks
// before the expressions keep ordinary texts cheap.
func clean(s string) string {
	if strings.Contains(s, "://") {
		s = urlUser.ReplaceAllString(s, "${1}"+redacted+"@")
		s = urlQuery.ReplaceAllString(s, "${1}?"+redacted)
	}
	for _, word := range secretWords {
		if strings.Contains(s, word) {
			s = assignment.ReplaceAllString(s, "${1}"+redacted)
			break
		}
	}
	if strings.Contains(s, "PRIVATE KEY-----") {
		s = privateKey.ReplaceAllString(s, redacted)
	}
	return cut(s)
}

// cut shortens a text to maxString characters, the mark included.
func cut(s string) string {
	if len(s) <= maxString || utf8.RuneCountInString(s) <= maxString {
		return s
	}
	keep, count := 0, 0
	for i := range s {
		if count == maxString-len(truncated) {
			keep = i
			break
		}
		count++
	}
	return s[:keep] + truncated
}
