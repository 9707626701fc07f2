package cell

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"

	"diego.internal/executor"
	repv1 "diego.internal/proto/rep/v1"
	workloadv1 "diego.internal/proto/workload/v1"
	"diego.internal/rep/internal/api"
	"diego.internal/rep/internal/presence"
	"diego.internal/rep/internal/translate"
	"diego.internal/rep/internal/work"
	"diego.internal/servicekit/config"
	"diego.internal/servicekit/grpcserver"
	"diego.internal/servicekit/mtls"
)

// guidLength is how much of a random UUID names a container; with longer names hostnames and interface names would not fit.
const guidLength = 28

// allow says who may call what. The auctioneer places, the BBS stops, operators look and evacuate.
var allow = grpcserver.Table{ //nolint:gochecknoglobals // a constant in all but type
	"/rep.v1.Auction/State":   {mtls.RoleAuctioneer, mtls.RoleOperator},
	"/rep.v1.Auction/Perform": {mtls.RoleAuctioneer},
	"/rep.v1.Instances/":      {mtls.RoleBBS},
	"/rep.v1.Operation/":      {mtls.RoleOperator},
	"/rep.v1.Logs/":           {mtls.RoleOperator},
}

// register adds the services, whose streams and queued deletions end with ctx.
func (c *Cell) register(ctx context.Context) {
	performer := &work.Performer{
		CellID: c.self.ID, Executor: c.exec, Holds: c.holdings.Holds, Evacuating: c.evacuator.Evacuating, NewGUID: newGUID, Log: c.log,
		RootFS: func(uri string) bool { return work.Supports(c.self.Providers, uri) },
	}
	operation := &api.Operation{Executor: c.exec, Evacuator: c.evacuator, Report: time.Second, Stopping: ctx.Done()}
	if c.cfg.Simulated {
		operation.Forget = c.forget
	}
	server := c.server.GRPC()
	repv1.RegisterAuctionServer(server, &api.Auction{Cell: c.self, Executor: c.exec, Holdings: c.holdings, Performer: performer, Evacuator: c.evacuator})
	repv1.RegisterInstancesServer(server, &api.Instances{Executor: c.exec, Log: c.log, Delete: func(e executor.Container) { c.reconciler.DeleteSoon(ctx, e) }})
	repv1.RegisterOperationServer(server, operation)
	repv1.RegisterLogsServer(server, &api.Logs{Executor: c.exec, Finder: c.finder, Stopping: ctx.Done()})
}

func newGUID() string { return uuid.NewString()[:guidLength] }

// forget deletes every container without telling the BBS, which finds out at the next round.
func (c *Cell) forget(ctx context.Context) error {
	var problems []error
	for _, e := range c.exec.ListContainers() {
		if err := c.exec.DeleteContainer(ctx, e.GUID); !errors.Is(err, executor.ErrContainerNotFound) {
			problems = append(problems, err)
		}
	}
	return errors.Join(problems...)
}

// presenceValue words the presence anew for each renewal, because the capacity is measured.
func presenceValue(self api.Cell, exec *executor.Client) func() []byte {
	version := config.BuildVersion()
	return func() []byte {
		value, err := presence.Value(&workloadv1.CellPresence{
			CellId: self.ID, RepAddress: self.Address, Zone: self.Zone, Capacity: translate.Capacity(exec.TotalResources()),
			RootfsProviders: self.Providers, PlacementTags: self.PlacementTags, OptionalPlacementTags: self.OptionalTags, Version: version,
		})
		if err != nil { // only text that is not UTF-8, which YAML does not yield
			return nil
		}
		return value
	}
}
