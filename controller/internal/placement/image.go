package placement

import (
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/limiquantix/limiquantix/controller/internal/state"
	statev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/state/v1"
	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
)

// MarkImage asks for an image's deletion and frees its names.
func MarkImage(out *state.Writer, rec *statev1.ImageRecord, now time.Time) {
	img := rec.GetImage()
	img.Meta.DeleteTime = timestamppb.New(now)
	img.Meta.Generation++
	img.Status.Phase = storagev1.ImagePhase_IMAGE_PHASE_DELETING
	for _, c := range img.GetStatus().GetCopies() {
		c.Phase, c.TransitionTime = storagev1.ImageCopyPhase_IMAGE_COPY_PHASE_DELETING, timestamppb.New(now)
	}
	project := img.GetMeta().GetProjectId()
	out.Delete(state.NameKey(project, state.KindImage, img.GetMeta().GetName()))
	for _, a := range img.GetSpec().GetAliases() {
		out.Delete(state.NameKey(project, state.KindImage, a))
	}
	out.Put(state.Key(state.KindImage, img.GetMeta().GetId()), rec)
}
