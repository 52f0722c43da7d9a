package command

import (
	"context"
	"maps"
	"strings"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/limiquantix/limiquantix/cli/internal/api"
	"github.com/limiquantix/limiquantix/cli/internal/failure"
	"github.com/limiquantix/limiquantix/cli/internal/quantity"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// setAttempts bounds repetitions of a read-change-write that others get in between of.
const setAttempts = 5

type setFlags struct {
	cpus              int32
	memory, runPolicy string
	labels            []string
	protect           bool
}

func (s *session) vmSet() *cobra.Command {
	var f setFlags
	var noWait bool
	cmd := &cobra.Command{
		Use:   "set NAME",
		Short: "Change labels, CPUs, memory, run policy or delete protection of a VM",
		Long: "Changes what the flags name and nothing else. What a running VM cannot take waits for its next start: then\n" +
			"lqctl vm show says that a restart is needed. Interfaces: lqctl vm nic; disks: lqctl volume attach.",
		Example:           "  lqctl vm set web --memory 2G --cpus 4\n  lqctl vm set web --label tier=front --label old-\n  lqctl vm set web --delete-protection=false",
		Args:              exactly("NAME"),
		ValidArgsFunction: completeArgs(1, s.vmNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, project, err := s.dial()
			if err != nil {
				return err
			}
			resp, err := f.apply(cmd, c, args[0], project)
			if err != nil {
				return err
			}
			made := resp.GetVm()
			it := accepted{name: args[0], op: resp.GetOperation(), object: made, final: vmNow(c, made), done: "changed"}
			if made.GetStatus().GetRestartRequired() {
				it.done = "changed; a part waits for its next start"
			}
			return s.settle(cmd.Context(), c, []accepted{it}, noWait, false)
		},
	}
	cmd.Flags().Int32Var(&f.cpus, "cpus", 0, "virtual CPUs")
	cmd.Flags().StringVar(&f.memory, "memory", "", "memory")
	cmd.Flags().StringArrayVar(&f.labels, "label", nil, "label key=value to set, or key- to remove; repeatable")
	cmd.Flags().StringVar(&f.runPolicy, "run-policy", "", "always, on-failure or manual")
	cmd.Flags().BoolVar(&f.protect, "delete-protection", false, "refuse to delete it")
	complete(cmd, "run-policy", fixed("always", "on-failure", "manual"))
	addNoWait(cmd, &noWait)
	return cmd
}

// apply reads the VM, changes it, and repeats that when it changed in between.
func (f *setFlags) apply(cmd *cobra.Command, c *api.Client, name, project string) (*computev1.UpdateVMResponse, error) {
	spec, paths, err := f.spec(cmd)
	if err != nil {
		return nil, err
	}
	if len(paths) == 0 && len(f.labels) == 0 {
		return nil, failure.Usage("nothing to change").WithFix("%s --help lists what can be set", cmd.CommandPath())
	}
	for attempt := 1; ; attempt++ {
		resp, err := f.once(cmd.Context(), c, name, project, spec, paths)
		if attempt == setAttempts || !failure.IsReason(err, metav1.Reason_REASON_STALE_ETAG) {
			return resp, err
		}
	}
}

func (f *setFlags) once(ctx context.Context, c *api.Client, name, project string, spec *computev1.VMSpec, paths []string) (*computev1.UpdateVMResponse, error) {
	vm, err := getVM(ctx, c, name, project)
	if err != nil {
		return nil, err
	}
	meta := &metav1.ObjectMeta{Id: vm.GetMeta().GetId()}
	if len(f.labels) > 0 { // the whole map is written, so it must not have changed
		meta.Etag = vm.GetMeta().GetEtag()
		if meta.Labels, err = changeLabels(vm.GetMeta().GetLabels(), f.labels); err != nil {
			return nil, err
		}
		paths = append([]string{"meta.labels"}, paths...)
	}
	resp, err := c.VMs.UpdateVM(ctx, connect.NewRequest(&computev1.UpdateVMRequest{
		Vm: &computev1.VM{Meta: meta, Spec: spec}, UpdateMask: &fieldmaskpb.FieldMask{Paths: paths},
	}))
	if err != nil {
		return nil, err
	}
	return resp.Msg, nil
}

func (f *setFlags) spec(cmd *cobra.Command) (spec *computev1.VMSpec, paths []string, err error) {
	spec = &computev1.VMSpec{}
	if cmd.Flags().Changed("cpus") {
		spec.Cpu, paths = &computev1.CPU{Vcpus: f.cpus}, append(paths, "spec.cpu.vcpus")
	}
	if cmd.Flags().Changed("memory") {
		if spec.MemoryBytes, err = quantity.ParseBytes(f.memory); err != nil {
			return nil, nil, failure.Usage("--memory: %w", err).WithFix("write for example --memory 512M")
		}
		paths = append(paths, "spec.memory_bytes")
	}
	if cmd.Flags().Changed("run-policy") {
		if spec.RunPolicy, err = enumFlag[computev1.RunPolicy]("--run-policy", f.runPolicy, computev1.RunPolicy_name, "RUN_POLICY_"); err != nil {
			return nil, nil, err
		}
		paths = append(paths, "spec.run_policy")
	}
	if cmd.Flags().Changed("delete-protection") {
		spec.DeleteProtection, paths = f.protect, append(paths, "spec.delete_protection")
	}
	return spec, paths, nil
}

func changeLabels(old map[string]string, changes []string) (map[string]string, error) {
	out := maps.Clone(old)
	if out == nil {
		out = map[string]string{}
	}
	for _, c := range changes {
		k, v, ok := strings.Cut(c, "=")
		switch {
		case ok && k != "":
			out[k] = v
		case !ok && len(c) > 1 && strings.HasSuffix(c, "-"):
			delete(out, strings.TrimSuffix(c, "-"))
		default:
			return nil, failure.Usage("--label %q is neither key=value nor key-", c).WithFix("write --label app=web to set, --label app- to remove")
		}
	}
	return out, nil
}
