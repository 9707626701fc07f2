package main

import (
	"context"
	"time"

	bbsv1 "diego.internal/proto/bbs/v1"
)

// beat is one look at how long the BBS takes to answer.
type beat struct {
	at          time.Duration // since the beginning of the report
	read, write time.Duration
}

// pulse makes one read and one write every now and then, through all steps, until ctx ends: what a step costs those who have
// nothing to do with it. A call that fails counts as long as it took.
func (w *world) pulse(ctx context.Context) {
	for {
		b := beat{at: time.Since(w.report.began)}
		began := time.Now()
		stream, err := w.actual.ListActualLRPs(ctx, &bbsv1.ListActualLRPsRequest{CellId: cellID(0)})
		_ = drain(stream, err, func(*bbsv1.ListActualLRPsResponse) {}) // a failure shows as its time
		b.read = time.Since(began)
		began = time.Now()
		_, _ = w.domains.UpsertDomain(ctx, &bbsv1.UpsertDomainRequest{Domain: domain}) // likewise
		b.write = time.Since(began)
		if ctx.Err() != nil {
			return
		}
		w.report.beat(b)
		if !pause(ctx, 200*time.Millisecond) {
			return
		}
	}
}
