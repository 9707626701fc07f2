package spawn

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestMessage(t *testing.T) {
	t.Parallel()
	full := message{
		kind: tellReply, number: 1<<63 + 1, id: "p-1", signal: 15, outcome: outcomeFailed, stage: StageFolder,
		errno: uint32(unix.ENOENT), start: 7, exited: true, code: 137,
	}
	got, err := decode(full.encode())
	require.NoError(t, err)
	require.Empty(t, cmp.Diff(full, got, cmp.AllowUnexported(message{})))
	for _, length := range []int{0, headBytes - 1, maxMessage + 1} {
		_, err := decode(make([]byte, length))
		require.ErrorIs(t, err, ErrMessage, "%d bytes", length)
	}
}

func TestMessageErr(t *testing.T) {
	t.Parallel()
	for sentence, test := range map[string]struct {
		reply message
		want  error
	}{
		"nothing is wrong":                {reply: message{}},
		"a process that nobody knows":     {reply: message{outcome: outcomeUnknown}, want: ErrUnknown},
		"an id that is taken":             {reply: message{outcome: outcomeTaken}, want: ErrTaken},
		"a start that failed":             {reply: message{outcome: outcomeFailed, stage: StageProgram, errno: uint32(unix.EACCES)}, want: unix.EACCES},
		"an init that does not follow us": {reply: message{outcome: outcomeBad}, want: ErrMessage},
		"an outcome of a later release":   {reply: message{outcome: 99}, want: ErrMessage},
	} {
		t.Run(sentence, func(t *testing.T) {
			t.Parallel()
			require.ErrorIs(t, test.reply.err(), test.want)
		})
	}
}

func TestProcess(t *testing.T) {
	t.Parallel()
	full := Process{
		Args: []string{"/bin/sh", "-c", "", "a b"}, Env: []string{"A=1", "B="}, Dir: "/home/vcap",
		UID: 1000, GID: 1<<32 - 2, Groups: []uint32{1, 1 << 31}, OpenFiles: 1 << 40,
	}
	got, err := decodeProcess(full.encode())
	require.NoError(t, err)
	require.Empty(t, cmp.Diff(full, got))
	got, err = decodeProcess(append(full.encode(), "what a later release adds"...))
	require.NoError(t, err)
	require.Empty(t, cmp.Diff(full, got))
	encoded := full.encode()
	for length := range len(encoded) - 1 {
		_, err := decodeProcess(encoded[:length])
		require.ErrorIs(t, err, ErrMessage, "the first %d bytes", length)
	}
}

func TestFailureIn(t *testing.T) {
	t.Parallel()
	for sentence, test := range map[string]struct {
		said string
		want *StartError
	}{
		"it runs its program":            {said: "x"},
		"it died before":                 {said: "", want: &StartError{Stage: StageFork, Errno: unix.EAGAIN}},
		"it could not become the user":   {said: "\x05\x01\x00", want: &StartError{Stage: StageUser, Errno: unix.EPERM}},
		"its program cannot be executed": {said: "x\x06\x08\x00", want: &StartError{Stage: StageProgram, Errno: unix.ENOEXEC}},
	} {
		t.Run(sentence, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, test.want, failureIn([]byte(test.said)))
		})
	}
}

// FuzzDecodeProcess reads specifications from anybody: whatever is accepted survives another round, and nothing makes the
// reader take more memory than a small multiple of its input.
func FuzzDecodeProcess(f *testing.F) {
	f.Add((&Process{Args: []string{"a"}, Groups: []uint32{1}}).encode())
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Fuzz(func(t *testing.T, content []byte) {
		p, err := decodeProcess(content)
		if err != nil {
			return
		}
		again, err := decodeProcess(p.encode())
		require.NoError(t, err)
		require.Empty(t, cmp.Diff(p, again))
	})
}

// FuzzDecode reads what a container may send in the name of its init.
func FuzzDecode(f *testing.F) {
	f.Add((&message{kind: tellExit, number: 1}).encode())
	f.Fuzz(func(t *testing.T, content []byte) {
		m, err := decode(content)
		if err != nil {
			return
		}
		again, err := decode(m.encode())
		require.NoError(t, err)
		require.Equal(t, m, again)
		_ = m.err()
	})
}
