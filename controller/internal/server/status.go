package server

import (
	"net/http"
	"strconv"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// statusWriter remembers how an RPC ended on the wire, for calls that were refused before any interceptor saw them.
type statusWriter struct {
	http.ResponseWriter
	status int
}

// Unwrap lets http.ResponseController through.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// Flush implements http.Flusher, which connect asks for.
func (w *statusWriter) Flush() {
	_ = http.NewResponseController(w.ResponseWriter).Flush() // a writer that cannot flush writes at once
}

func (w *statusWriter) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

// code is the gRPC code's name that the answer says.
func (w *statusWriter) code() string {
	for _, key := range []string{http.TrailerPrefix + "Grpc-Status", "Grpc-Status"} {
		if n, err := strconv.ParseUint(w.Header().Get(key), 10, 32); err == nil {
			return codeName(codes.Code(n))
		}
	}
	switch w.status {
	case 0, http.StatusOK:
		return codeName(codes.OK)
	case http.StatusBadRequest, http.StatusRequestEntityTooLarge:
		return codeName(codes.InvalidArgument)
	case http.StatusUnauthorized:
		return codeName(codes.Unauthenticated)
	case http.StatusTooManyRequests:
		return codeName(codes.ResourceExhausted)
	case http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusUnsupportedMediaType, http.StatusNotImplemented:
		return codeName(codes.Unimplemented)
	}
	return codeName(codes.Unknown)
}

// proceduresOf lists the methods of services as paths, from their descriptors.
func proceduresOf(services []string) []string {
	var out []string
	for _, name := range services {
		d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(name))
		if err != nil {
			continue
		}
		sd, ok := d.(protoreflect.ServiceDescriptor)
		if !ok {
			continue
		}
		for i := range sd.Methods().Len() {
			out = append(out, "/"+name+"/"+string(sd.Methods().Get(i).Name()))
		}
	}
	return out
}
