package schema

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestDecide goes through all pairs of versions for a program that was built for version 2, with and
// without a version to roll back to. 0 is none: an empty database.
func TestDecide(t *testing.T) {
	t.Parallel()
	const built = 2
	// By current version, target version, and version to roll back to.
	want := map[[3]int64]Action{
		{0, 0, 0}: Up, {0, 1, 0}: Up, {0, 2, 0}: Up, {0, 3, 0}: Up, // an empty database, or one that somebody began to fill
		{1, 0, 0}: Up, {1, 1, 0}: Up, {1, 2, 0}: Up, {1, 3, 0}: Up, // older than the program, wherever it was going
		{2, 0, 0}: RefuseRollback, {2, 1, 0}: RefuseRollback, // on the way back to before the program
		{2, 2, 0}: Serve, {2, 3, 0}: Serve, // as the program knows it; a later release died on its way up
		{3, 0, 0}: RefuseNewer, {3, 1, 0}: RefuseNewer, {3, 2, 0}: RefuseNewer, {3, 3, 0}: RefuseNewer,

		{0, 0, 1}: StayPassive, {0, 1, 1}: StayPassive, {0, 2, 1}: StayPassive, {0, 3, 1}: StayPassive, // nothing to roll back
		{1, 0, 1}: StayPassive, {1, 1, 1}: StayPassive, {1, 2, 1}: StayPassive, {1, 3, 1}: StayPassive,
		{2, 0, 1}: Down, {2, 1, 1}: Down, {2, 2, 1}: Down, {2, 3, 1}: Down,
		{3, 0, 1}: RefuseNewer, {3, 1, 1}: RefuseNewer, {3, 2, 1}: RefuseNewer, {3, 3, 1}: RefuseNewer, // steps it does not know

		{0, 0, 2}: StayPassive, {0, 1, 2}: StayPassive, {0, 2, 2}: StayPassive, {0, 3, 2}: StayPassive,
		{1, 0, 2}: StayPassive, {1, 1, 2}: StayPassive, {1, 2, 2}: StayPassive, {1, 3, 2}: StayPassive,
		{2, 0, 2}: StayPassive, {2, 1, 2}: StayPassive, {2, 2, 2}: StayPassive, {2, 3, 2}: StayPassive,
		{3, 0, 2}: RefuseNewer, {3, 1, 2}: RefuseNewer, {3, 2, 2}: RefuseNewer, {3, 3, 2}: RefuseNewer,
	}
	for current := range int64(4) {
		for target := range int64(4) {
			for rollBackTo := range int64(3) {
				name := fmt.Sprintf("at %d, on the way to %d, to be rolled back to %d", current, target, rollBackTo)
				expected, listed := want[[3]int64{current, target, rollBackTo}]
				require.True(t, listed, name)
				got := Decide(Versions{Current: current, Target: target}, built, rollBackTo)
				require.Equal(t, expected.String(), got.String(), name)
			}
		}
	}
}
