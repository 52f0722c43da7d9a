package render

import (
	"fmt"
	"strings"
	"time"

	"github.com/limiquantix/limiquantix/cli/internal/quantity"
	operationv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/operation/v1"
	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
)

// ImageColumns are the columns of a table of images.
func ImageColumns(now func() time.Time) []Column[*storagev1.Image] {
	return []Column[*storagev1.Image]{
		{Title: "NAME", Value: func(i *storagev1.Image) string { return i.GetMeta().GetName() }},
		{Title: "STATUS", Value: func(i *storagev1.Image) string { return Enum(i.GetStatus().GetPhase(), "IMAGE_PHASE_") }},
		{Title: "FORMAT", Value: func(i *storagev1.Image) string { return Enum(i.GetSpec().GetFormat(), "IMAGE_FORMAT_") }},
		{Title: "SIZE", Value: func(i *storagev1.Image) string { return sizeOrNone(i.GetStatus().GetVirtualSizeBytes()) }},
		{Title: "CONTENT", Value: func(i *storagev1.Image) string { return sizeOrNone(i.GetStatus().GetContentBytes()) }},
		{Title: "COPIES", Value: imageCopies},
		{Title: "AGE", Value: func(i *storagev1.Image) string { return Age(i.GetMeta().GetCreateTime(), now()) }},
		{Title: "PROJECT", Wide: true, Value: func(i *storagev1.Image) string { return i.GetMeta().GetProjectId() }},
		{Title: "ID", Wide: true, Value: func(i *storagev1.Image) string { return i.GetMeta().GetId() }},
		{Title: "SHA256", Wide: true, Value: func(i *storagev1.Image) string { return i.GetStatus().GetSha256() }},
		{Title: "MESSAGE", Wide: true, Value: func(i *storagev1.Image) string { return i.GetStatus().GetMessage() }},
	}
}

func sizeOrNone(n int64) string {
	if n == 0 {
		return ""
	}
	return quantity.FormatBytes(n)
}

func imageCopies(i *storagev1.Image) string {
	ready := 0
	for _, c := range i.GetStatus().GetCopies() {
		if c.GetPhase() == storagev1.ImageCopyPhase_IMAGE_COPY_PHASE_READY {
			ready++
		}
	}
	return fmt.Sprintf("%d/%d", ready, len(i.GetStatus().GetCopies()))
}

// OperationColumns are the columns of a table of operations.
func OperationColumns(now func() time.Time) []Column[*operationv1.Operation] {
	return []Column[*operationv1.Operation]{
		{Title: "ID", Value: func(o *operationv1.Operation) string { return o.GetId() }},
		{Title: "VERB", Value: func(o *operationv1.Operation) string { return o.GetVerb() }},
		{Title: "OBJECT", Value: func(o *operationv1.Operation) string { return o.GetObjectName() }},
		{Title: "STATE", Value: func(o *operationv1.Operation) string { return Enum(o.GetState(), "OPERATION_STATE_") }},
		{Title: "TOOK", Value: func(o *operationv1.Operation) string { return took(o, now()) }},
		{Title: "AGE", Value: func(o *operationv1.Operation) string { return Age(o.GetCreateTime(), now()) }},
		{Title: "PROJECT", Wide: true, Value: func(o *operationv1.Operation) string { return o.GetProjectId() }},
		{Title: "MESSAGE", Value: func(o *operationv1.Operation) string { return o.GetMessage() }},
	}
}

func took(o *operationv1.Operation, now time.Time) string {
	end := now
	if o.GetEndTime() != nil {
		end = o.GetEndTime().AsTime()
	}
	if o.GetCreateTime() == nil {
		return ""
	}
	return max(end.Sub(o.GetCreateTime().AsTime()), 0).Round(100 * time.Millisecond).String()
}

// OperationFields describes an operation.
func OperationFields(o *operationv1.Operation, now time.Time) []Field {
	f := []Field{
		{"ID", o.GetId()},
		{"Verb", o.GetVerb()},
		{"Object", o.GetObjectKind() + " " + o.GetObjectName()},
		{"Object ID", o.GetObjectId()},
		{"Project", o.GetProjectId()},
		{"State", Enum(o.GetState(), "OPERATION_STATE_")},
		{"Reason", o.GetReason()},
		{"Message", o.GetMessage()},
		{"Accepted", withAge(Time(o.GetCreateTime()), Age(o.GetCreateTime(), now))},
		{"Ended", Time(o.GetEndTime())},
		{"Took", took(o, now)},
	}
	for _, p := range o.GetPhases() {
		f = append(f, Field{"Phase " + p.GetName(), phaseText(o, p, now)})
	}
	if o.GetCancelRequested() {
		f = append(f, Field{"Cancel", "requested"})
	}
	return f
}

// phaseText says how long a phase took, and from when to when after the operation was accepted.
func phaseText(o *operationv1.Operation, p *operationv1.OperationPhase, now time.Time) string {
	after := func(t time.Time) string {
		return "+" + max(0, t.Sub(o.GetCreateTime().AsTime())).Round(time.Millisecond).String()
	}
	begin := p.GetStartTime().AsTime()
	text := fmt.Sprintf("%s (%s to %s)", p.GetDuration().AsDuration().Round(time.Millisecond), after(begin), after(p.GetEndTime().AsTime()))
	if p.GetEndTime() == nil {
		text = fmt.Sprintf("under way for %s (from %s)", max(0, now.Sub(begin)).Round(time.Millisecond), after(begin))
	}
	if p.GetTries() > 1 {
		text += fmt.Sprintf(", %d tries", p.GetTries())
	}
	return text
}

// ImageFields describes an image.
func ImageFields(i *storagev1.Image, now time.Time) []Field {
	m, s, st := i.GetMeta(), i.GetSpec(), i.GetStatus()
	f := []Field{
		{"Name", m.GetName()},
		{"Project", m.GetProjectId()},
		{"ID", m.GetId()},
		{"Labels", Labels(m.GetLabels())},
		{"Aliases", strings.Join(s.GetAliases(), ", ")},
		{"Status", Enum(st.GetPhase(), "IMAGE_PHASE_")},
		{"Reason", st.GetReason()},
		{"Message", st.GetMessage()},
		{"Format", Enum(s.GetFormat(), "IMAGE_FORMAT_")},
		{"Size", sizeOrNone(st.GetVirtualSizeBytes())},
		{"Content", sizeOrNone(st.GetContentBytes())},
		{"SHA-256", st.GetSha256()},
		{"Source", s.GetSourceUrl()},
		{"Created", withAge(Time(m.GetCreateTime()), Age(m.GetCreateTime(), now))},
	}
	for _, c := range st.GetCopies() {
		where := strings.Join(nonEmpty(c.GetPoolId(), c.GetNodeId()), " on ")
		f = append(f, Field{"Copy " + where, strings.Join(nonEmpty(Enum(c.GetPhase(), "IMAGE_COPY_PHASE_"), c.GetReason(), c.GetMessage()), ", ")})
	}
	return f
}
