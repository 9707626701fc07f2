package grpcserver

import (
	"google.golang.org/protobuf/proto"

	"diego.internal/servicekit/rules"
)

// validate checks a message against the rules in its .proto file.
func validate(req any) error {
	msg, ok := req.(proto.Message)
	if !ok {
		return nil
	}
	return rules.Check(msg)
}
