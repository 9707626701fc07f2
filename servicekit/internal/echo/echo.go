// Package echo is a small gRPC service for the tests of this module. Its messages are built at run
// time, so that the module needs no .proto file of its own: a request {name, count} with rules, and
// an answer that repeats it.
package echo

import (
	"context"
	"fmt"

	"buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go/buf/validate"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
)

// Names of the service and its methods.
const (
	Service   = "echo.v1.Echo"
	Say       = "/" + Service + "/Say"       // unary
	SayStream = "/" + Service + "/SayStream" // answers each message
)

// Message returns a request or answer. A name must have 2 to 10 characters, a count be positive.
func Message(name string, count int64) *dynamicpb.Message {
	m := dynamicpb.NewMessage(descriptor)
	m.Set(field("name"), protoreflect.ValueOfString(name))
	m.Set(field("count"), protoreflect.ValueOfInt64(count))
	return m
}

// Name returns the name in a message.
func Name(m *dynamicpb.Message) string { return m.Get(field("name")).String() }

func field(name protoreflect.Name) protoreflect.FieldDescriptor {
	return descriptor.Fields().ByName(name)
}

var descriptor = describe() //nolint:gochecknoglobals // a constant

func describe() protoreflect.MessageDescriptor {
	file := &descriptorpb.FileDescriptorProto{
		Name: new("echo/v1/echo.proto"), Package: new("echo.v1"), Syntax: new("proto3"),
		Dependency: []string{"buf/validate/validate.proto"},
		MessageType: []*descriptorpb.DescriptorProto{{
			Name: new("Message"),
			Field: []*descriptorpb.FieldDescriptorProto{
				ruled("name", 1, descriptorpb.FieldDescriptorProto_TYPE_STRING, &validate.FieldRules{
					Type: &validate.FieldRules_String_{String_: &validate.StringRules{MinLen: proto.Uint64(2), MaxLen: proto.Uint64(10)}},
				}),
				ruled("count", 2, descriptorpb.FieldDescriptorProto_TYPE_INT64, &validate.FieldRules{
					Type: &validate.FieldRules_Int64{Int64: &validate.Int64Rules{GreaterThan: &validate.Int64Rules_Gt{Gt: 0}}},
				}),
			},
		}},
	}
	fd, err := protodesc.NewFile(file, resolver{})
	if err != nil {
		panic(fmt.Sprintf("describing the echo service: %v", err)) // a mistake in this file
	}
	return fd.Messages().Get(0)
}

func ruled(name string, number int32, kind descriptorpb.FieldDescriptorProto_Type, rules *validate.FieldRules) *descriptorpb.FieldDescriptorProto {
	options := &descriptorpb.FieldOptions{}
	proto.SetExtension(options, validate.E_Field, rules)
	return &descriptorpb.FieldDescriptorProto{
		Name: new(name), JsonName: new(name), Number: new(number), Type: kind.Enum(),
		Label: descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL.Enum(), Options: options,
	}
}

// resolver knows the one import.
type resolver struct{}

func (resolver) FindFileByPath(string) (protoreflect.FileDescriptor, error) {
	return validate.File_buf_validate_validate_proto, nil
}

func (resolver) FindDescriptorByName(name protoreflect.FullName) (protoreflect.Descriptor, error) {
	return nil, fmt.Errorf("%s is not known", name)
}

// Server answers calls; each function may be nil, which repeats the request.
type Server struct {
	OnSay    func(ctx context.Context, req *dynamicpb.Message) (*dynamicpb.Message, error)
	OnStream func(stream grpc.ServerStream) error
}

// Register registers the service.
func Register(r grpc.ServiceRegistrar, s *Server) {
	r.RegisterService(&grpc.ServiceDesc{
		ServiceName: Service,
		HandlerType: (*any)(nil),
		Methods:     []grpc.MethodDesc{{MethodName: "Say", Handler: say}},
		Streams:     []grpc.StreamDesc{{StreamName: "SayStream", Handler: sayStream, ServerStreams: true, ClientStreams: true}},
	}, s)
}

func say(srv any, ctx context.Context, decode func(any) error, interceptor grpc.UnaryServerInterceptor) (any, error) { //nolint:revive // the signature is grpc's
	req := dynamicpb.NewMessage(descriptor)
	if err := decode(req); err != nil {
		return nil, err
	}
	handle := func(ctx context.Context, req any) (any, error) {
		s := srv.(*Server)
		if s.OnSay == nil {
			return req, nil
		}
		return s.OnSay(ctx, req.(*dynamicpb.Message))
	}
	if interceptor == nil {
		return handle(ctx, req)
	}
	return interceptor(ctx, req, &grpc.UnaryServerInfo{Server: srv, FullMethod: Say}, handle)
}

func sayStream(srv any, stream grpc.ServerStream) error {
	if s := srv.(*Server); s.OnStream != nil {
		return s.OnStream(stream)
	}
	for {
		m := dynamicpb.NewMessage(descriptor)
		if err := stream.RecvMsg(m); err != nil {
			return err
		}
		if err := stream.SendMsg(m); err != nil {
			return err
		}
	}
}

// Call makes a unary call.
func Call(ctx context.Context, cc grpc.ClientConnInterface, req *dynamicpb.Message) (*dynamicpb.Message, error) {
	resp := dynamicpb.NewMessage(descriptor)
	if err := cc.Invoke(ctx, Say, req, resp); err != nil {
		return nil, err
	}
	return resp, nil
}

// Stream opens a stream.
func Stream(ctx context.Context, cc grpc.ClientConnInterface) (grpc.ClientStream, error) {
	return cc.NewStream(ctx, &grpc.StreamDesc{StreamName: "SayStream", ServerStreams: true, ClientStreams: true}, SayStream)
}

// Empty returns a message to receive into.
func Empty() *dynamicpb.Message { return dynamicpb.NewMessage(descriptor) }
