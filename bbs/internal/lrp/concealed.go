package lrp

import (
	"bytes"
	"crypto/sha256"
)

// concealedSize is the length of what stands for a concealed value.
const concealedSize = sha256.Size

// Conceal returns what a record has in memory in place of a value that hardly anybody asks for, such as a private key: a digest, by
// which values can be compared. It returns what is concealed already as it is.
func Conceal(value []byte) []byte {
	if IsConcealed(value) {
		return value
	}
	sum := sha256.Sum256(value)
	sum[0] = 0 // which no JSON begins with
	return sum[:]
}

// IsConcealed tells what stands for a value from a value, which is JSON.
func IsConcealed(value []byte) bool { return len(value) == concealedSize && value[0] == 0 }

// sameValue compares two values of which either may be concealed.
func sameValue(a, b []byte) bool {
	if IsConcealed(a) != IsConcealed(b) {
		a, b = Conceal(a), Conceal(b)
	}
	return bytes.Equal(a, b)
}
