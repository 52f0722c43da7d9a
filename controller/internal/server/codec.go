package server

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/limiquantix/limiquantix/controller/internal/config"
	"github.com/limiquantix/limiquantix/proto/fault"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	spb "google.golang.org/genproto/googleapis/rpc/status"
)

// jsonCodec is JSON as protobuf maps it, strict: connect's own discards fields that it does not know, and a mistyped field would be an effect that
// the user did not ask for.
//
// connect turns a codec's error into one without details, so a body that is refused is not an error here: the message is left empty but for a mark
// among its unknown fields, and the interceptor finds the fault in it.
type jsonCodec struct{ name string }

func jsonCodecs() []connect.HandlerOption {
	return []connect.HandlerOption{
		connect.WithCodec(jsonCodec{"json"}), connect.WithCodec(jsonCodec{"json; charset=utf-8"}),
	}
}

func (c jsonCodec) Name() string { return c.name }

func (jsonCodec) Marshal(m any) ([]byte, error) {
	pm, ok := m.(proto.Message)
	if !ok {
		return nil, fmt.Errorf("%T is no protobuf message", m)
	}
	return protojson.Marshal(pm)
}

func (c jsonCodec) MarshalStable(m any) ([]byte, error) {
	// protojson varies its white space on purpose.
	b, err := c.Marshal(m)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	err = json.Compact(&out, b)
	return out.Bytes(), err
}

func (jsonCodec) IsBinary() bool { return false }

func (jsonCodec) Unmarshal(b []byte, m any) error {
	pm, ok := m.(proto.Message)
	if !ok {
		return fmt.Errorf("%T is no protobuf message", m)
	}
	if len(bytes.TrimSpace(b)) == 0 {
		b = []byte("{}") // curl without a body
	}
	if err := protojson.Unmarshal(b, pm); err != nil {
		markRefused(pm, explainJSON(b, pm, err))
	}
	return nil
}

// explainJSON says what is wrong with a body: every field that does not exist, with the nearest that does, or what protojson says.
func explainJSON(b []byte, m proto.Message, err error) *fault.Error {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	var body any
	if dec.Decode(&body) == nil {
		var found []fault.Violation
		findUnknown(body, m.ProtoReflect().Descriptor(), "", &found)
		if len(found) > 0 {
			first := found[0]
			f := fault.New(metav1.Reason_REASON_UNKNOWN_FIELD, "%s: %s", first.Field, first.Description)
			if len(found) > 1 {
				f.Message += fmt.Sprintf(" (and %d more)", len(found)-1)
			}
			f.Violations = found
			return f.WithRemedy("correct the field's name; the API knows no other")
		}
	}
	text := strings.TrimSpace(strings.NewReplacer("proto:", "", "\u00a0", " ").Replace(err.Error()))
	f := fault.New(metav1.Reason_REASON_INVALID_FIELD, "the JSON body cannot be read: %s", text)
	f.Violations = []fault.Violation{{Field: "", Description: text}}
	return f
}

func findUnknown(v any, md protoreflect.MessageDescriptor, path string, found *[]fault.Violation) {
	object, ok := v.(map[string]any)
	if !ok || md.ParentFile().Package() == "google.protobuf" { // those have JSON forms of their own
		return
	}
	fields := md.Fields()
	for key, value := range object {
		fd := fields.ByJSONName(key)
		if fd == nil {
			fd = fields.ByTextName(key)
		}
		if fd == nil {
			*found = append(*found, unknownField(path, key, fields))
			continue
		}
		at := path + string(fd.Name())
		switch {
		case fd.IsMap() && fd.MapValue().Message() != nil:
			entries, _ := value.(map[string]any)
			for k, e := range entries {
				findUnknown(e, fd.MapValue().Message(), at+"["+strconv.Quote(k)+"].", found)
			}
		case fd.IsMap() || fd.Message() == nil:
		case fd.IsList():
			list, _ := value.([]any)
			for i, e := range list {
				findUnknown(e, fd.Message(), at+"["+strconv.Itoa(i)+"].", found)
			}
		default:
			findUnknown(value, fd.Message(), at+".", found)
		}
	}
}

func unknownField(path, key string, fields protoreflect.FieldDescriptors) fault.Violation {
	var names []string
	for i := range fields.Len() {
		names = append(names, string(fields.Get(i).Name()))
	}
	description := "no such field"
	if near := config.Nearest(key, names); near != "" {
		description += fmt.Sprintf("; did you mean %q?", path+near)
	} else if len(names) > 0 {
		description += "; known here: " + strings.Join(names, ", ")
	}
	return fault.Violation{Field: path + key, Description: description}
}

// refusedField is the number of the mark: the highest there is, which no contract of ours uses.
const refusedField = protowire.MaxValidNumber

func markRefused(m proto.Message, f *fault.Error) {
	proto.Reset(m)
	b, err := proto.Marshal(f.GRPCStatus().Proto())
	if err != nil {
		b = nil
	}
	m.ProtoReflect().SetUnknown(protowire.AppendBytes(protowire.AppendTag(nil, refusedField, protowire.BytesType), b))
}

// refusedBody is the fault of a body that the codec refused; nil when it took it.
func refusedBody(m any) error {
	pm, ok := m.(proto.Message)
	if !ok {
		return nil
	}
	unknown := pm.ProtoReflect().GetUnknown()
	for len(unknown) > 0 {
		number, kind, n := protowire.ConsumeTag(unknown)
		if n < 0 {
			return nil
		}
		if number == refusedField && kind == protowire.BytesType {
			b, _ := protowire.ConsumeBytes(unknown[n:])
			return faultOfStatus(b)
		}
		size := protowire.ConsumeFieldValue(number, kind, unknown[n:])
		if size < 0 {
			return nil
		}
		unknown = unknown[n+size:]
	}
	return nil
}

func faultOfStatus(b []byte) error {
	st := &spb.Status{}
	if err := proto.Unmarshal(b, st); err != nil || st.GetCode() == 0 {
		return fault.New(metav1.Reason_REASON_INVALID_FIELD, "the body cannot be read")
	}
	return connectStatus(st)
}

// connectStatus is a status as connect's error, details and all.
func connectStatus(st *spb.Status) *connect.Error {
	e := connect.NewError(connect.Code(uint32(st.GetCode())), errors.New(st.GetMessage()))
	for _, any := range st.GetDetails() {
		addDetail(e, any)
	}
	return e
}

func addDetail(e *connect.Error, a *anypb.Any) {
	if d, err := connect.NewErrorDetail(a); err == nil {
		e.AddDetail(d)
	}
}
