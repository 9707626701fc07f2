package executor

import (
	"context"

	"diego.internal/executor/ecr"
	"diego.internal/executor/garden"
)

// withToken replaces the keys of an AWS account, which images of its registries come with, by a token that the registry
// takes. Other images stay as they are, and so do those without keys: the engine may have credentials for them.
func (c *Client) withToken(ctx context.Context, image garden.Image) (garden.Image, error) {
	registry, found := ecr.Find(image.URI)
	if !found || image.Username == "" {
		return image, nil
	}
	username, password, err := c.ecr.Credentials(ctx, registry, image.Username, image.Password)
	if err != nil {
		return image, &creationError{text: "failed to get ECR credentials: " + err.Error(), err: err}
	}
	image.Username, image.Password = username, password
	return image, nil
}
