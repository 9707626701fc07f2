package rules

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"diego.internal/servicekit/fault"
	"diego.internal/servicekit/internal/echo"
)

// TestCheck is the border of the package; package api of the BBS compares Surely with the general validator on every rule of the
// product.
func TestCheck(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		message proto.Message
		fields  []string // that break a rule
	}{
		"a good message":                      {message: echo.Message("hello", 1)},
		"the longest name":                    {message: echo.Message(strings.Repeat("x", 10), 1)},
		"characters are counted, not bytes":   {message: echo.Message(strings.Repeat("ü", 10), 1)},
		"too long by one character":           {message: echo.Message(strings.Repeat("ü", 11), 1), fields: []string{"name"}},
		"one character of two bytes is short": {message: echo.Message("ü", 1), fields: []string{"name"}},
		"every field that is bad is named":    {message: echo.Message("", 0), fields: []string{"name", "count"}},
		"a message without rules":             {message: durationpb.New(-1)},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := Check(tc.message)
			require.Equal(t, len(tc.fields) == 0, Surely(tc.message))
			if len(tc.fields) == 0 {
				require.NoError(t, err)
				return
			}
			require.Equal(t, codes.InvalidArgument, fault.Code(err))
			var fields []string
			for _, violation := range fault.Violations(err) {
				fields = append(fields, violation.Field)
				require.NotEmpty(t, violation.Description)
			}
			require.Equal(t, tc.fields, fields)
		})
	}
}
