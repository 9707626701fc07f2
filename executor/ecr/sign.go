package ecr

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// keys of an account.
type keys struct{ id, secret string }

// sign adds the headers that prove, by version 4 of AWS's signatures, that a request with this body comes from the owner of
// the keys. The request must have no query and a path that needs no encoding. All its headers are signed.
func sign(request *http.Request, body []byte, by keys, scope struct{ region, service string }, now time.Time) {
	const stampForm = "20060102T150405Z"
	now = now.UTC()
	stamp, day := now.Format(stampForm), now.Format("20060102")
	request.Header.Set("X-Amz-Date", stamp)

	values := map[string]string{"host": request.URL.Host}
	names := []string{"host"}
	for name := range request.Header {
		lower := strings.ToLower(name)
		names = append(names, lower)
		values[lower] = strings.TrimSpace(request.Header.Get(name))
	}
	slices.Sort(names)
	var headers strings.Builder
	for _, name := range names {
		fmt.Fprintf(&headers, "%s:%s\n", name, values[name])
	}
	signed := strings.Join(names, ";")
	canonical := strings.Join([]string{request.Method, request.URL.Path, "", headers.String(), signed, hexDigest(body)}, "\n")

	where := strings.Join([]string{day, scope.region, scope.service, "aws4_request"}, "/")
	text := strings.Join([]string{"AWS4-HMAC-SHA256", stamp, where, hexDigest([]byte(canonical))}, "\n")
	key := []byte("AWS4" + by.secret)
	for _, part := range []string{day, scope.region, scope.service, "aws4_request", text} {
		key = mac(key, part)
	}
	request.Header.Set("Authorization", fmt.Sprintf("AWS4-HMAC-SHA256 Credential=%s/%s, SignedHeaders=%s, Signature=%s", by.id, where, signed, hex.EncodeToString(key)))
}

func mac(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	_, _ = h.Write([]byte(text)) // never fails
	return h.Sum(nil)
}

func hexDigest(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}
