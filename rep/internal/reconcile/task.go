package reconcile

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"strings"
	"unicode/utf8"

	"diego.internal/executor"
	bbsv1 "diego.internal/proto/bbs/v1"
	workloadv1 "diego.internal/proto/workload/v1"
	"diego.internal/rep/internal/translate"
	"diego.internal/servicekit/fault"
)

const (
	// maxResultFile is the largest result file that is read at all, maxResult what of it is sent. Both are promises to users.
	maxResultFile = 51200
	maxResult     = 10240
)

// Texts of failures that users see.
const (
	reasonRunFailed   = "failed to run container"
	reasonFetchFailed = "failed to fetch result"
	reasonNoContainer = "task container does not exist"
	reasonInterrupted = "the start of the task was interrupted"
	reasonEvacuated   = "timed out during cell evacuation"
	reasonStaleRecord = "missing garden container"
)

// task settles one container of a task.
func (r *Reconciler) task(ctx context.Context, c executor.Container, known *records) error {
	guid := c.Tags[translate.TagTaskGUID]
	switch c.State {
	case executor.StateReserved:
		return r.startTask(ctx, c, guid)
	case executor.StateInitializing, executor.StateCreated, executor.StateRunning:
		return r.checkTask(ctx, c, guid, known)
	case executor.StateCompleted:
		return r.endTask(ctx, c, guid)
	default:
		return fmt.Errorf("container %q is in unknown state %q", c.GUID, c.State)
	}
}

func (r *Reconciler) startTask(ctx context.Context, c executor.Container, guid string) error {
	started, err := r.BBS.TaskCell.StartTask(ctx, &bbsv1.StartTaskRequest{TaskGuid: guid, CellId: r.CellID})
	if err != nil {
		if definitive(err) {
			return r.delete(ctx, c)
		}
		return fmt.Errorf("starting task %q: %w", guid, err)
	}
	if !started.GetShouldStart() {
		// The permission was given to a call whose answer never came. This container has run nothing, so the task can go
		// back without running twice.
		return r.rejectTask(ctx, c, guid, reasonInterrupted)
	}
	info, err := translate.RunInfoForTask(started.GetTask())
	if err == nil {
		err = r.Executor.RunContainer(ctx, executor.RunRequest{GUID: c.GUID, Info: info, Tags: translate.StartedTaskTags(started.GetTask())})
	}
	if changedMeanwhile(err) {
		return r.rejectStarted(ctx, withTags(c, translate.StartedTaskTags(started.GetTask())), guid, reasonInterrupted)
	}
	if err != nil {
		r.Log.WarnContext(ctx, "task-not-run", "task_guid", guid, "error", err)
		return r.completeTask(ctx, withTags(c, translate.StartedTaskTags(started.GetTask())), outcome{failed: true, reason: reasonRunFailed + ": " + err.Error()})
	}
	return nil
}

// withTags returns a copy of the container that carries these tags too; the executor's own stays as it is.
func withTags(c executor.Container, tags map[string]string) executor.Container {
	c.Tags = maps.Clone(c.Tags)
	maps.Copy(c.Tags, tags)
	return c
}

// checkTask deletes a container whose task is no longer ours: cancelled, or failed because this cell was thought lost.
func (r *Reconciler) checkTask(ctx context.Context, c executor.Container, guid string, known *records) error {
	if known == nil {
		return nil
	}
	if task, ok := known.tasks[guid]; ok && sameRun(task, c) {
		return nil
	}
	// The list may be older than the start of this task, so the BBS is asked about this one.
	answer, err := r.BBS.TaskCell.StartTask(ctx, &bbsv1.StartTaskRequest{TaskGuid: guid, CellId: r.CellID})
	switch {
	case err != nil && definitive(err):
		r.Log.InfoContext(ctx, "task-not-wanted", "task_guid", guid, "reason", fault.Reason(err))
		return r.delete(ctx, c)
	case err != nil:
		return fmt.Errorf("asking about task %q: %w", guid, err)
	case answer.GetShouldStart():
		// A task of the same name that is another run: this container must not pass for it.
		if err := r.delete(ctx, c); err != nil {
			return err
		}
		return r.rejectStarted(ctx, withTags(c, translate.StartedTaskTags(answer.GetTask())), guid, reasonInterrupted)
	default:
		return nil
	}
}

func sameRun(task *workloadv1.Task, c executor.Container) bool {
	run := c.Tags[translate.TagInstanceGUID]
	return run == "" || task.GetInstanceGuid() == run
}

func (r *Reconciler) endTask(ctx context.Context, c executor.Container, guid string) error {
	if c.Result.Failed && c.Result.Retryable {
		return r.rejectTask(ctx, c, guid, c.Result.FailureReason)
	}
	out := outcome{failed: c.Result.Failed, reason: c.Result.FailureReason}
	if file := c.Tags[translate.TagResultFile]; file != "" && !out.failed {
		result, err := r.readResult(ctx, c.GUID, file)
		if err != nil {
			r.Log.WarnContext(ctx, "result-not-read", "task_guid", guid, "file", file, "error", err)
			out = outcome{failed: true, reason: reasonFetchFailed}
		} else {
			out.result = result
		}
	}
	return r.completeTask(ctx, c, out)
}

type outcome struct {
	failed         bool
	reason, result string
}

// completeTask reports an outcome and deletes the container when the BBS has taken note of it or wants none.
func (r *Reconciler) completeTask(ctx context.Context, c executor.Container, out outcome) error {
	guid := c.Tags[translate.TagTaskGUID]
	_, err := r.BBS.TaskCell.CompleteTask(ctx, &bbsv1.CompleteTaskRequest{
		TaskGuid: guid, CellId: r.CellID, InstanceGuid: c.Tags[translate.TagInstanceGUID],
		Failed: out.failed, FailureReason: out.reason, Result: out.result,
	})
	if err != nil && !definitive(err) {
		return fmt.Errorf("reporting the end of task %q: %w", guid, err)
	}
	if err == nil {
		r.Log.InfoContext(ctx, "task-completed", "task_guid", guid, "failed", out.failed, "reason", out.reason)
	}
	return r.delete(ctx, c)
}

func (r *Reconciler) rejectTask(ctx context.Context, c executor.Container, guid, reason string) error {
	if err := r.rejectStarted(ctx, c, guid, reason); err != nil {
		return err
	}
	return r.delete(ctx, c)
}

func (r *Reconciler) rejectStarted(ctx context.Context, c executor.Container, guid, reason string) error {
	_, err := r.BBS.TaskCell.RejectTask(ctx, &bbsv1.RejectTaskRequest{
		TaskGuid: guid, CellId: r.CellID, InstanceGuid: c.Tags[translate.TagInstanceGUID], RejectionReason: reason,
	})
	if err != nil && !definitive(err) {
		return fmt.Errorf("giving back task %q: %w", guid, err)
	}
	return nil
}

// readResult reads the file as root.
func (r *Reconciler) readResult(ctx context.Context, guid, path string) (string, error) {
	stream, err := r.Executor.GetFiles(ctx, guid, path)
	if err != nil {
		return "", fmt.Errorf("reading the result file: %w", err)
	}
	defer func() { _ = stream.Close() }()
	archive := tar.NewReader(stream)
	if _, err := archive.Next(); err != nil {
		return "", fmt.Errorf("reading the result file: %w", err)
	}
	content, err := io.ReadAll(io.LimitReader(archive, maxResultFile+1))
	if err != nil {
		return "", fmt.Errorf("reading the result file: %w", err)
	}
	if len(content) > maxResultFile {
		return "", errors.New("result file is too large (over 51200 bytes)")
	}
	return resultText(content), nil
}

// resultText cuts a result to what the BBS keeps, at a border between characters.
func resultText(content []byte) string {
	text := strings.ToValidUTF8(string(content), "\uFFFD")
	if len(text) <= maxResult {
		return text
	}
	cut := maxResult
	for !utf8.RuneStart(text[cut]) {
		cut--
	}
	return text[:cut]
}
