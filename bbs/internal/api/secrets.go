package api

import (
	"context"

	"google.golang.org/protobuf/proto"

	workloadv1 "diego.internal/proto/workload/v1"
)

// Secrets are credentials of images, environments, and files that are mounted: they go to the cell
// that runs the container, and to owners who ask for them.

// secretsRead notes that a client was given secrets.
func (a *API) secretsRead(ctx context.Context, kind, guid string) {
	a.metrics.secretsRead.Inc()
	a.Log.InfoContext(ctx, "secrets-read", "kind", kind, "guid", guid)
}

// withoutSecrets returns a copy of a definition that holds no secrets. The original is shared.
func withoutSecrets(def *workloadv1.LRPDefinition) *workloadv1.LRPDefinition {
	c := proto.CloneOf(def)
	blankContainer(c.GetContainer())
	blankActions(c.GetSetup(), c.GetAction(), c.GetMonitor())
	for _, sidecar := range c.GetSidecars() {
		blankActions(sidecar.GetAction())
	}
	return c
}

// withoutTaskSecrets is withoutSecrets for tasks.
func withoutTaskSecrets(def *workloadv1.TaskDefinition) *workloadv1.TaskDefinition {
	c := proto.CloneOf(def)
	blankContainer(c.GetContainer())
	blankActions(c.GetAction())
	return c
}

func blankContainer(c *workloadv1.ContainerSpec) {
	if c != nil {
		c.ImageCredentials, c.Env, c.VolumeMountedFiles = nil, nil, nil
	}
}

func blankActions(actions ...*workloadv1.Action) {
	for _, a := range actions {
		if a == nil {
			continue
		}
		if run := a.GetRun(); run != nil {
			run.Env, run.VolumeMountedFiles = nil, nil
		}
		blankActions(children(a)...)
	}
}
