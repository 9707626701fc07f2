package api

import (
	"diego.internal/servicekit/grpcserver"
	"diego.internal/servicekit/mtls"
)

// Roles says who may call which method. Cells are further limited to themselves by the methods.
func Roles() grpcserver.Table {
	owners := []string{mtls.RoleCCBridge, mtls.RoleOperator}
	routing := []string{mtls.RoleCCBridge, mtls.RoleOperator, mtls.RoleRouteEmitter}
	readers := []string{mtls.RoleCCBridge, mtls.RoleOperator, mtls.RoleRouteEmitter, mtls.RoleCell}
	cell := []string{mtls.RoleCell}
	operator := []string{mtls.RoleOperator}
	return grpcserver.Table{
		"/bbs.v1.Domains/UpsertDomain": owners,
		"/bbs.v1.Domains/ListDomains":  routing,

		"/bbs.v1.Tasks/DesireTask":    owners,
		"/bbs.v1.Tasks/ListTasks":     {mtls.RoleCCBridge, mtls.RoleOperator, mtls.RoleCell},
		"/bbs.v1.Tasks/GetTask":       owners,
		"/bbs.v1.Tasks/CancelTask":    owners,
		"/bbs.v1.Tasks/ResolvingTask": owners,
		"/bbs.v1.Tasks/DeleteTask":    owners,

		"/bbs.v1.DesiredLRPs/DesireLRP":              owners,
		"/bbs.v1.DesiredLRPs/UpdateDesiredLRP":       owners,
		"/bbs.v1.DesiredLRPs/RemoveDesiredLRP":       owners,
		"/bbs.v1.DesiredLRPs/GetDesiredLRP":          owners,
		"/bbs.v1.DesiredLRPs/ListDesiredLRPs":        owners,
		"/bbs.v1.DesiredLRPs/GetSchedulingInfo":      routing,
		"/bbs.v1.DesiredLRPs/ListSchedulingInfos":    routing,
		"/bbs.v1.DesiredLRPs/ListRoutingInfos":       routing,
		"/bbs.v1.DesiredLRPs/ListLRPDefinitions":     owners,
		"/bbs.v1.DesiredLRPs/CancelUpdateDesiredLRP": owners,
		"/bbs.v1.DesiredLRPs/RollbackDesiredLRP":     owners,

		"/bbs.v1.ActualLRPs/ListActualLRPs":  readers,
		"/bbs.v1.ActualLRPs/RetireActualLRP": owners,

		"/bbs.v1.Cells/ListCells":    {mtls.RoleAuctioneer, mtls.RoleCCBridge, mtls.RoleOperator},
		"/bbs.v1.Cells/ListCellTags": owners,

		"/bbs.v1.Watch/Watch": readers,

		"/bbs.v1.TaskCell/StartTask":    cell,
		"/bbs.v1.TaskCell/CompleteTask": cell,
		"/bbs.v1.TaskCell/RejectTask":   cell,

		"/bbs.v1.ActualLRPCell/ClaimActualLRP":     cell,
		"/bbs.v1.ActualLRPCell/StartActualLRP":     cell,
		"/bbs.v1.ActualLRPCell/CrashActualLRP":     cell,
		"/bbs.v1.ActualLRPCell/RemoveActualLRP":    cell,
		"/bbs.v1.ActualLRPCell/FetchLRPDefinition": cell,

		"/bbs.v1.Evacuation/EvacuateClaimedActualLRP":  cell,
		"/bbs.v1.Evacuation/EvacuateRunningActualLRP":  cell,
		"/bbs.v1.Evacuation/EvacuateStoppedActualLRP":  cell,
		"/bbs.v1.Evacuation/EvacuateCrashedActualLRP":  cell,
		"/bbs.v1.Evacuation/RemoveEvacuatingActualLRP": cell,

		"/bbs.v1.Placement/FailActualLRPs": {mtls.RoleAuctioneer},
		"/bbs.v1.Placement/RejectTasks":    {mtls.RoleAuctioneer},
		"/bbs.v1.Placement/ListUnplaced":   {mtls.RoleAuctioneer},

		"/bbs.v1.Maintenance/ListQuarantinedRecords": operator,
		"/bbs.v1.Maintenance/OverrideBrake":          operator,
		"/bbs.v1.Maintenance/GetStatus":              operator,
	}
}
