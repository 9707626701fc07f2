package api

import (
	"context"
	"time"

	"diego.internal/bbs/internal/lrp"
	"diego.internal/bbs/internal/store"
	"diego.internal/bbs/internal/wire"
	bbsv1 "diego.internal/proto/bbs/v1"
)

// domains is the service about the freshness of desired state.
type domains struct {
	bbsv1.UnimplementedDomainsServer
	*API
}

func (d *domains) UpsertDomain(ctx context.Context, req *bbsv1.UpsertDomainRequest) (*bbsv1.UpsertDomainResponse, error) {
	var v violations
	v.plain("domain", req.GetDomain())
	v.crashPolicy("default_crash_restart_policy", req.GetDefaultCrashRestartPolicy())
	if err := v.err(); err != nil {
		return nil, err
	}
	ttl := req.GetTtl().AsDuration().Truncate(time.Second)
	policy, now := wire.CrashPolicyFrom(req.GetDefaultCrashRestartPolicy()), d.now()
	revision, err := d.Store.Apply(ctx, func(tx *store.Tx) error {
		before := tx.Domain(req.GetDomain())
		after, event := lrp.UpsertDomain(before, req.GetDomain(), ttl, policy, now)
		tx.PutDomain(before, after, event)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &bbsv1.UpsertDomainResponse{Revision: revision}, nil
}

func (d *domains) ListDomains(ctx context.Context, req *bbsv1.ListDomainsRequest) (*bbsv1.ListDomainsResponse, error) {
	view, err := d.Store.ViewAt(ctx, req.GetMinRevision())
	if err != nil {
		return nil, err
	}
	resp := &bbsv1.ListDomainsResponse{Revision: view.Revision()}
	now := d.Clock()
	for domain := range view.Domains() {
		if domain.Fresh(now) {
			resp.Domains = append(resp.Domains, wire.Domain(domain))
		}
	}
	return resp, nil
}
