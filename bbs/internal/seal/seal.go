// Package seal owns the encryption of what the BBS keeps in Postgres: AES-256-GCM under labelled
// keys, bound to the place where the value is stored.
//
// It does not own which columns are sealed, nor the rotation of keys: it reads what any configured
// key has written, and writes with the active one.
package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"google.golang.org/grpc/codes"

	"diego.internal/servicekit/fault"
)

// Errors of Open.
var (
	// ErrBroken says that a value cannot be opened: damaged, or sealed for another place.
	ErrBroken = fault.New(codes.DataLoss, "FailedToOpenEnvelope", "the sealed value cannot be opened")
	// ErrUnknownKey says that a value is sealed under a label that is not configured: a mistake of the
	// configuration, not of the value.
	ErrUnknownKey = fault.New(codes.DataLoss, "FailedToOpenEnvelope", "the value is sealed under a key that is not configured")
)

const (
	version   = 1
	keySize   = 32
	saltSize  = 16
	maxLabel  = 127
	headerMin = 2 + saltSize
	// messagesPerSalt bounds how many values share one derived key. With random nonces of 96 bits a
	// key is good for 2^32 values; a batch log under load writes that many within months.
	messagesPerSalt = 1 << 30
	// maxDerived bounds the cache of derived keys of other processes: one entry for each start of a
	// BBS whose values are still stored.
	maxDerived = 4096
)

// Key is one 256-bit key and the label by which sealed values name it.
type Key struct {
	Label  string // 1 to 127 bytes
	Secret [keySize]byte
}

// Place is where a sealed value is stored. A value moved to another place does not open.
type Place struct {
	Table  string
	Key    string // the primary key of the row
	Column string
}

// Keyring seals and opens. It is safe for concurrent use.
//
// A sealed value is: version, length of the label, label, salt, nonce, ciphertext with tag. The key
// that encrypts is derived from the labelled key and the salt, which is new at every start.
type Keyring struct {
	keys   map[string]Key
	active string

	mu      sync.Mutex
	derived map[string]cipher.AEAD // by label and salt
	sealer  *sealer
}

// sealer is the derived key that new values are sealed with.
type sealer struct {
	prefix []byte // version, label, salt
	aead   cipher.AEAD
	left   int
}

// New returns a keyring that seals with the key labelled active. It returns all problems, joined.
func New(keys []Key, active string) (*Keyring, error) {
	var problems []error
	byLabel := make(map[string]Key, len(keys))
	for _, key := range keys {
		if key.Label == "" || len(key.Label) > maxLabel {
			problems = append(problems, fmt.Errorf("label %q: must have 1 to %d bytes", key.Label, maxLabel))
		}
		if _, twice := byLabel[key.Label]; twice {
			problems = append(problems, fmt.Errorf("label %q: given twice", key.Label))
		}
		byLabel[key.Label] = key
	}
	if _, known := byLabel[active]; !known {
		problems = append(problems, fmt.Errorf("active label %q: no such key", active))
	}
	if len(problems) > 0 {
		return nil, fmt.Errorf("making a keyring: %w", errors.Join(problems...))
	}
	return &Keyring{keys: byLabel, active: active, derived: map[string]cipher.AEAD{}}, nil
}

// Active returns the label that new values are sealed under.
func (k *Keyring) Active() string { return k.active }

// Labels returns the labels of all keys, in order.
func (k *Keyring) Labels() []string { return slices.Sorted(maps.Keys(k.keys)) }

// Prefix returns what every value begins with that is sealed under the active key, and no other value.
func (k *Keyring) Prefix() []byte {
	return append([]byte{version, byte(len(k.active))}, k.active...) //nolint:gosec // at most maxLabel
}

// Seal encrypts plaintext for one place under the active key.
func (k *Keyring) Seal(plaintext []byte, place Place) ([]byte, error) {
	return k.AppendSeal(nil, plaintext, place)
}

// AppendSeal is Seal that appends the sealed value to other bytes, of which plaintext must not be a part.
func (k *Keyring) AppendSeal(to, plaintext []byte, place Place) ([]byte, error) {
	prefix, aead, err := k.forSealing()
	if err != nil {
		return nil, fmt.Errorf("sealing %s of %s: %w", place.Column, place.Table, err)
	}
	to = slices.Grow(to, len(prefix)+len(plaintext)+aead.Overhead())
	return aead.Seal(append(to, prefix...), nil, plaintext, place.associated()), nil //nolint:gosec // this kind of AEAD makes the nonce itself
}

// Open decrypts what Seal made for the same place. Every error is an ErrBroken or an ErrUnknownKey.
func (k *Keyring) Open(sealed []byte, place Place) ([]byte, error) {
	label, salt, body, err := split(sealed)
	if err != nil {
		return nil, err
	}
	aead, err := k.derive(label, salt)
	if err != nil {
		return nil, err
	}
	plaintext, err := aead.Open(nil, nil, body, place.associated())
	if err != nil {
		return nil, ErrBroken.With("%s of %s under label %q: %w", place.Column, place.Table, label, err)
	}
	return plaintext, nil
}

// unknownLabelError is the label of a key that is not configured.
type unknownLabelError string

func (l unknownLabelError) Error() string { return fmt.Sprintf("label %q", string(l)) }

// UnknownLabel returns the label that an ErrUnknownKey is about.
func UnknownLabel(err error) (string, bool) {
	label, ok := errors.AsType[unknownLabelError](err)
	return string(label), ok
}

// LabelOf returns the label of the key that a value is sealed under.
func LabelOf(sealed []byte) (string, error) {
	label, _, _, err := split(sealed)
	return label, err
}

func split(sealed []byte) (label string, salt, body []byte, err error) {
	if len(sealed) < headerMin || sealed[0] != version {
		return "", nil, nil, ErrBroken.With("no header of version %d", version)
	}
	labelEnd := 2 + int(sealed[1])
	saltEnd := labelEnd + saltSize
	if len(sealed) < saltEnd {
		return "", nil, nil, ErrBroken.With("header cut short")
	}
	return string(sealed[2:labelEnd]), sealed[labelEnd:saltEnd], sealed[saltEnd:], nil
}

// forSealing returns the prefix and the derived key for one new value.
func (k *Keyring) forSealing() ([]byte, cipher.AEAD, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.sealer == nil || k.sealer.left == 0 {
		salt := make([]byte, saltSize)
		_, _ = rand.Read(salt) // never fails, see crypto/rand
		aead, err := deriveAEAD(k.keys[k.active], salt)
		if err != nil {
			return nil, nil, err
		}
		k.sealer = &sealer{prefix: append(k.Prefix(), salt...), aead: aead, left: messagesPerSalt}
	}
	k.sealer.left--
	return k.sealer.prefix, k.sealer.aead, nil
}

// derive returns the derived key of a stored value, from the cache if it was seen before.
func (k *Keyring) derive(label string, salt []byte) (cipher.AEAD, error) {
	key, known := k.keys[label]
	if !known {
		return nil, ErrUnknownKey.With("%w", unknownLabelError(label))
	}
	id := label + "\x00" + string(salt)
	k.mu.Lock()
	aead := k.derived[id]
	k.mu.Unlock()
	if aead != nil {
		return aead, nil
	}
	aead, err := deriveAEAD(key, salt)
	if err != nil {
		return nil, ErrBroken.With("label %q: %w", label, err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.derived) >= maxDerived {
		clear(k.derived)
	}
	k.derived[id] = aead
	return aead, nil
}

func deriveAEAD(key Key, salt []byte) (cipher.AEAD, error) {
	secret, err := hkdf.Key(sha256.New, key.Secret[:], salt, "diego bbs seal v1", keySize)
	if err != nil {
		return nil, fmt.Errorf("deriving a key: %w", err)
	}
	block, err := aes.NewCipher(secret)
	if err != nil {
		return nil, fmt.Errorf("making a cipher: %w", err)
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// associated returns an unambiguous encoding of the place: each part with its length.
func (p Place) associated() []byte {
	out := make([]byte, 0, len(p.Table)+len(p.Key)+len(p.Column)+12)
	for _, part := range [...]string{p.Table, p.Key, p.Column} {
		out = binary.BigEndian.AppendUint32(out, uint32(len(part))) //nolint:gosec // parts are far below 4 GiB
		out = append(out, part...)
	}
	return out
}
