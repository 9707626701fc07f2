package step

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"diego.internal/executor/container"
	"diego.internal/executor/garden"
	"diego.internal/executor/healthcheck"
	"diego.internal/executor/logs"
	"diego.internal/executor/transfer"
)

// maxErrorText bounds the text of a failed transfer in the log.
const maxErrorText = 1024

func (e *Env) download(action container.DownloadAction, place string) Step {
	return func(ctx context.Context, ready func()) error {
		ready()
		if e.Progress.Done(place) {
			return nil
		}
		source := e.source(action.LogSource)
		if action.Artifact != "" {
			e.Log.Emit(source, logs.Out, "Downloading "+action.Artifact+"...")
		}
		received, err := e.fetch(ctx, action)
		if err != nil {
			if ctx.Err() != nil {
				return interrupted(ctx)
			}
			e.Log.Emit(source, logs.Err, cutError(err.Error()))
			return err
		}
		e.Progress.SetDone(place)
		if action.Artifact != "" {
			e.Log.Emit(source, logs.Out, Downloaded(action.Artifact, received))
		}
		return nil
	}
}

// Downloaded words the end of a download; what the cache had was not received and is told without a size.
func Downloaded(name string, received int64) string {
	if received == 0 {
		return "Downloaded " + name
	}
	return fmt.Sprintf("Downloaded %s (%s)", name, Bytes(received))
}

// fetch returns how many bytes came over the network.
func (e *Env) fetch(ctx context.Context, action container.DownloadAction) (received int64, err error) {
	name := ""
	if action.Artifact != "" {
		name = " " + action.Artifact
	}
	archive, err := e.Transfers.Archive(ctx, action.CacheKey, transfer.Source{
		URL:               action.From,
		ChecksumAlgorithm: action.ChecksumAlgorithm,
		ChecksumValue:     action.ChecksumValue,
	})
	if err != nil {
		return 0, &ShownError{Text: fmt.Sprintf("Downloading%s failed", name), Err: err}
	}
	defer func() { err = errors.Join(err, archive.Remove()) }()
	stream, err := archive.Tar()
	if err == nil {
		err = e.Container.StreamIn(ctx, garden.StreamInSpec{Path: action.To, User: action.User, Tar: stream})
		err = errors.Join(err, stream.Close())
	}
	if err != nil {
		return 0, &ShownError{Text: fmt.Sprintf("Copying%s into the container failed: %v", name, err), Err: err}
	}
	if archive.Cached {
		return 0, nil
	}
	return archive.Size, nil
}

func cutError(text string) string {
	const mark = " (error truncated)"
	if len(text) <= maxErrorText {
		return text
	}
	return strings.ToValidUTF8(text[:maxErrorText-len(mark)], "") + mark
}

func (e *Env) upload(action container.UploadAction, place string) Step {
	return func(ctx context.Context, ready func()) error {
		ready()
		if e.Progress.Done(place) {
			return nil
		}
		source := e.source(action.LogSource)
		if action.Artifact != "" {
			e.Log.Emit(source, logs.Out, "Uploading "+action.Artifact+"...")
		}
		size, err := e.Transfers.Upload(ctx, action.To, func(ctx context.Context) (io.ReadCloser, error) {
			return e.Container.StreamOut(ctx, garden.StreamOutSpec{Path: action.From, User: action.User})
		})
		if err != nil {
			if ctx.Err() != nil {
				return interrupted(ctx)
			}
			text := "Failed to upload payload"
			if failed, ok := errors.AsType[*transfer.UploadError](err); ok {
				text = failed.Text
			}
			if action.Artifact != "" {
				text += " for " + action.Artifact
			}
			e.Log.Emit(source, logs.Err, cutError(err.Error()))
			return &ShownError{Text: text, Err: err}
		}
		e.Progress.SetDone(place)
		if action.Artifact != "" {
			e.Log.Emit(source, logs.Out, fmt.Sprintf("Uploaded %s (%s)", action.Artifact, Bytes(size)))
		}
		return nil
	}
}

// netCheck asks once; it is ready when the answer is there.
func (e *Env) netCheck(action container.NetCheckAction) Step {
	timeout := action.Timeout
	if timeout <= 0 {
		timeout = e.CheckTimeout
	}
	probe := healthcheck.TCP(e.Dial, e.Address, action.Port, timeout)
	if action.Endpoint != "" {
		probe = e.HTTP.Probe(e.Address, action.Port, action.Endpoint, timeout)
	}
	return func(ctx context.Context, ready func()) error {
		if err := probe(ctx); err != nil {
			if ctx.Err() != nil && !errors.Is(context.Cause(ctx), errLimit) {
				return interrupted(ctx)
			}
			return &ShownError{Text: err.Error(), Err: err}
		}
		ready()
		return nil
	}
}

// Bytes words a size as in the log lines of transfers: "512B", "1.5K", "20M".
func Bytes(n int64) string {
	value, unit := float64(n), "B"
	for _, larger := range []string{"K", "M", "G", "T"} {
		if value < 1024 {
			break
		}
		value, unit = value/1024, larger
	}
	return strings.TrimSuffix(fmt.Sprintf("%.1f", value), ".0") + unit
}
