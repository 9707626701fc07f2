package main

import (
	"context"
	"iter"

	"diego.internal/bbs/internal/effect"
	"diego.internal/bbs/internal/lrp"
	"diego.internal/bbs/internal/store"
)

// effectStore shows the store to effects as they want it.
type effectStore struct {
	*store.Store
}

// Snapshot implements effect.Store.
func (s effectStore) Snapshot() effect.Snapshot {
	view := s.Committed()
	if s.QuarantinedCount() == 0 {
		return view
	}
	return withoutQuarantine{View: view, store: s.Store}
}

// Do implements effect.Store.
func (s effectStore) Do(ctx context.Context, mutate func(effect.Tx) error) error {
	_, err := s.Apply(ctx, func(tx *store.Tx) error { return mutate(tx) })
	return err
}

// Callback implements effect.Store.
func (s effectStore) Callback(ctx context.Context, taskGUID string) (effect.Callback, error) {
	def, err := s.TaskDefinition(ctx, taskGUID)
	if err != nil {
		return effect.Callback{}, err
	}
	return effect.Callback{URL: def.GetCompletionCallbackUrl(), Annotation: def.GetAnnotation()}, nil
}

// changes converts what a commit touched.
func changes(c store.Committed) effect.Changes {
	return effect.Changes{Actuals: c.Actuals, Gone: c.ActualsGone, Desireds: c.Desireds, DesiredsGone: c.DesiredsGone, Tasks: c.Tasks}
}

// withoutQuarantine hides the instances of LRPs that are stored but cannot be read. To convergence they
// would look as if nobody desired them, and it would stop what runs.
type withoutQuarantine struct {
	*store.View
	store *store.Store
}

func (w withoutQuarantine) Instance(key lrp.Key) lrp.Instance {
	if w.store.DesiredQuarantined(key.ProcessGUID) {
		return lrp.Instance{}
	}
	return w.View.Instance(key)
}

func (w withoutQuarantine) InstancesOf(guid string) []*lrp.Actual {
	if w.store.DesiredQuarantined(guid) {
		return nil
	}
	return w.View.InstancesOf(guid)
}

func (w withoutQuarantine) Records() iter.Seq[*lrp.Actual] { return w.readable(w.View.Records()) }

func (w withoutQuarantine) RecordsFrom(guid string) iter.Seq[*lrp.Actual] {
	return w.readable(w.View.RecordsFrom(guid))
}

// Tally is not known: that of the view counts the records that are hidden, too.
func (w withoutQuarantine) Tally() (lrp.Tally, bool) { return lrp.Tally{}, false }

func (w withoutQuarantine) RecordsOnCell(cell string) iter.Seq[*lrp.Actual] {
	return w.readable(w.View.RecordsOnCell(cell))
}

func (w withoutQuarantine) readable(rows iter.Seq[*lrp.Actual]) iter.Seq[*lrp.Actual] {
	return func(yield func(*lrp.Actual) bool) {
		for row := range rows {
			if !w.store.DesiredQuarantined(row.ProcessGUID) && !yield(row) {
				return
			}
		}
	}
}

var (
	_ effect.Store    = effectStore{}
	_ effect.Snapshot = withoutQuarantine{}
	_ effect.Tx       = (*store.Tx)(nil)
)
