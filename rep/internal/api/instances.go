package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"diego.internal/executor"
	repv1 "diego.internal/proto/rep/v1"
	"diego.internal/rep/internal/translate"
)

// Instances serves rep.v1.Instances.
type Instances struct {
	repv1.UnimplementedInstancesServer

	Executor *executor.Client
	// Delete deletes a container in the background; it outlives the request.
	Delete func(executor.Container)
	Log    *slog.Logger
}

// StopLRPInstance implements repv1.InstancesServer.
func (i *Instances) StopLRPInstance(ctx context.Context, req *repv1.StopLRPInstanceRequest) (*repv1.StopLRPInstanceResponse, error) {
	c, found := i.instance(req.GetProcessGuid(), req.GetInstanceGuid())
	if !found {
		return &repv1.StopLRPInstanceResponse{}, nil
	}
	i.Log.InfoContext(ctx, "stopping-instance", "process_guid", req.GetProcessGuid(), "instance_guid", req.GetInstanceGuid(), "index", c.Tags[translate.TagProcessIndex])
	if err := i.Executor.StopContainer(ctx, c.GUID); err != nil {
		if errors.Is(err, executor.ErrContainerNotFound) {
			return &repv1.StopLRPInstanceResponse{}, nil
		}
		return nil, fmt.Errorf("stopping instance %q: %w", req.GetInstanceGuid(), err)
	}
	return &repv1.StopLRPInstanceResponse{Found: true}, nil
}

// UpdateLRPInstance implements repv1.InstancesServer.
func (i *Instances) UpdateLRPInstance(ctx context.Context, req *repv1.UpdateLRPInstanceRequest) (*repv1.UpdateLRPInstanceResponse, error) {
	c, found := i.instance(req.GetProcessGuid(), req.GetInstanceGuid())
	if !found {
		return &repv1.UpdateLRPInstanceResponse{}, nil
	}
	update := executor.UpdateRequest{GUID: c.GUID}
	if routes := req.GetInternalRoutes(); routes != nil {
		update.InternalRoutes = []executor.InternalRoute{} // present and empty clears
		for _, name := range routes.GetHostnames() {
			update.InternalRoutes = append(update.InternalRoutes, executor.InternalRoute{Hostname: name})
		}
	}
	if tags := req.GetMetricTags(); tags != nil {
		update.MetricTags = tags.GetMetricTags()
		if update.MetricTags == nil {
			update.MetricTags = map[string]string{}
		}
	}
	if err := i.Executor.UpdateContainer(ctx, update); err != nil {
		if errors.Is(err, executor.ErrContainerNotFound) {
			return &repv1.UpdateLRPInstanceResponse{}, nil
		}
		return nil, fmt.Errorf("updating instance %q: %w", req.GetInstanceGuid(), err)
	}
	return &repv1.UpdateLRPInstanceResponse{Found: true}, nil
}

// CancelTask implements repv1.InstancesServer.
func (i *Instances) CancelTask(ctx context.Context, req *repv1.CancelTaskRequest) (*repv1.CancelTaskResponse, error) {
	out := &repv1.CancelTaskResponse{}
	for _, c := range i.Executor.ListContainers() {
		run := c.Tags[translate.TagInstanceGUID]
		if c.Tags[translate.TagTaskGUID] != req.GetTaskGuid() || req.GetInstanceGuid() != "" && run != "" && run != req.GetInstanceGuid() {
			continue
		}
		i.Log.InfoContext(ctx, "cancelling-task", "task_guid", req.GetTaskGuid())
		out.Found = true
		i.Delete(c)
	}
	return out, nil
}

func (i *Instances) instance(processGUID, instanceGUID string) (executor.Container, bool) {
	// The container of an instance has the guid of the instance.
	c, err := i.Executor.GetContainer(instanceGUID)
	if err != nil || c.Tags[translate.TagProcessGUID] != processGUID {
		return executor.Container{}, false
	}
	return c, true
}
