package transfer

import (
	"crypto/md5"  //nolint:gosec // named by callers for files they already trust
	"crypto/sha1" //nolint:gosec // as above
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"strings"
)

// ChecksumError says that a download is not what its caller named. It is final: the download is not repeated.
type ChecksumError struct {
	// Problem is "checksum mismatch", "algorithm invalid" or "checksum missing or invalid".
	Problem  string
	Expected string
	Got      string
}

func (e *ChecksumError) Error() string {
	return fmt.Sprintf("Checksum failed: '%s', expected '%s', got '%s'", e.Problem, e.Expected, e.Got)
}

// checksum hashes a stream against an expected value. A nil checksum checks nothing.
type checksum struct {
	hash     hash.Hash
	expected string
}

// newChecksum returns nil when neither algorithm nor value is given.
func newChecksum(algorithm, value string) (*checksum, error) {
	if algorithm == "" && value == "" {
		return nil, nil //nolint:nilnil // nothing to check is no error
	}
	c := &checksum{expected: strings.ToLower(value)}
	switch strings.ToLower(algorithm) {
	case "md5":
		c.hash = md5.New() //nolint:gosec // chosen by the caller
	case "sha1":
		c.hash = sha1.New() //nolint:gosec // chosen by the caller
	case "sha256":
		c.hash = sha256.New()
	default:
		return nil, &ChecksumError{Problem: "algorithm invalid", Expected: "md5, sha1, sha256", Got: algorithm}
	}
	if raw, err := hex.DecodeString(value); err != nil || len(raw) != c.hash.Size() {
		return nil, &ChecksumError{Problem: "checksum missing or invalid", Expected: fmt.Sprintf("%d hex digits", 2*c.hash.Size()), Got: value}
	}
	return c, nil
}

func (c *checksum) verify() error {
	if got := hex.EncodeToString(c.hash.Sum(nil)); got != c.expected {
		return &ChecksumError{Problem: "checksum mismatch", Expected: c.expected, Got: got}
	}
	return nil
}
