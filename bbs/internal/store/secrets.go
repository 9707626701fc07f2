package store

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"google.golang.org/grpc/codes"

	"diego.internal/bbs/internal/lrp"
	"diego.internal/bbs/internal/wire"
	"diego.internal/servicekit/fault"
)

// The value of a desired LRP's secret route, a private key, is a fifth of what the LRP would take in memory, and nobody but an owner
// who says so ever reads it. So it is in Postgres only, where it is sealed with the other routes, and the record has it concealed
// (lrp.Conceal). Whoever changes such a record must tell the batch the value, because the row is written as a whole.

// ErrSecretMoved says that the secret route has changed since the record was read.
var ErrSecretMoved = fault.New(codes.Unavailable, "SecretMoved", "the secret route of the desired lrp has just changed")

var errConcealed = errors.New("the value of a concealed route is not known")

// secrets are values by what stands for them.
type secrets map[string][]byte

// knows reports whether a value of a route is either not concealed or known.
func (s secrets) knows(value []byte) bool {
	_, known := s[string(value)]
	return known || !lrp.IsConcealed(value)
}

// revealed returns a record as it is written: with the values of concealed routes, which must be known.
func (s secrets) revealed(d *lrp.Desired) *lrp.Desired {
	if !lrp.IsConcealed(secretRoute(d)) {
		return d
	}
	written := *d
	written.Routes = slices.Clone(d.Routes)
	for i := range written.Routes {
		if route := &written.Routes[i]; lrp.IsConcealed(route.Value) {
			route.Value = s[string(route.Value)]
		}
	}
	return &written
}

// Know tells the batch a value that records have concealed, so that PutChange can store them. nil is none.
func (tx *Tx) Know(value []byte) {
	if value != nil {
		tx.batch.secrets[string(lrp.Conceal(value))] = value
	}
}

// Knows reports whether PutChange can store a record: the batch knows what it has concealed.
func (tx *Tx) Knows(d *lrp.Desired) bool {
	return tx.batch.secrets.knows(secretRoute(d))
}

// learn makes known what a record that is to be stored has not concealed yet. A record that has, and whose value is not known, would
// spoil the whole batch: the request is refused instead.
func (tx *Tx) learn(d *lrp.Desired) {
	value := secretRoute(d)
	if !lrp.IsConcealed(value) {
		tx.Know(value)
		return
	}
	if !tx.Knows(d) {
		panic(errConcealed)
	}
}

// secretRoute returns the value of the secret route as the record has it, nil if it has none.
func secretRoute(d *lrp.Desired) []byte {
	for i := range d.Routes {
		if d.Routes[i].Router == wire.SecretRouter {
			return d.Routes[i].Value
		}
	}
	return nil
}

// SecretRoute reads what a record has concealed, nil if that is nothing. It asks Postgres.
//
// It returns ErrSecretMoved if the LRP has another value or is gone by now, seal.ErrBroken if it cannot be opened and ErrUnavailable
// if Postgres does not answer.
func (s *Store) SecretRoute(ctx context.Context, d *lrp.Desired) ([]byte, error) {
	concealed := secretRoute(d)
	if !lrp.IsConcealed(concealed) {
		return concealed, nil
	}
	var sealed []byte
	err := s.pool.QueryRow(ctx, `select client_data from desired_lrps where process_guid = $1`, d.ProcessGUID).Scan(&sealed)
	if err != nil {
		return nil, s.readError(err, ErrSecretMoved, "reading the secret route of %q", d.ProcessGUID)
	}
	stored := lrp.Desired{ProcessGUID: d.ProcessGUID}
	if err := openClientData(s.keys, &stored, sealed); err != nil {
		return nil, fmt.Errorf("reading the secret route of %q: %w", d.ProcessGUID, err)
	}
	value := secretRoute(&stored)
	if string(lrp.Conceal(value)) != string(concealed) {
		return nil, ErrSecretMoved.With("desired LRP %q", d.ProcessGUID)
	}
	return value, nil
}
