package executor

import (
	"crypto/sha256"
	"encoding/hex"
)

const (
	maxGUID = 255
	// maxHandle is the engine's bound for names; handles are also names of folders of ours.
	maxHandle = 63
)

// validGUID says whether a guid can name a container.
func validGUID(guid string) bool {
	if guid == "" || len(guid) > maxGUID || guid == "." || guid == ".." {
		return false
	}
	for _, r := range guid {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '_', r == '-', r == '.':
		default:
			return false
		}
	}
	return true
}

// handleOf is the name of the container in the engine: the guid itself, or for a long one its beginning and a digest.
func handleOf(guid string) string {
	if len(guid) <= maxHandle {
		return guid
	}
	sum := sha256.Sum256([]byte(guid))
	return guid[:maxHandle-33] + "." + hex.EncodeToString(sum[:16])
}
