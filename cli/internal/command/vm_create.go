package command

import (
	"strings"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/limiquantix/limiquantix/cli/internal/failure"
	"github.com/limiquantix/limiquantix/cli/internal/quantity"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

const createLong = `Creates a VM, places it as soon as a node has room, and waits until it is as wanted.

--image NAME gives it a disk "root" that starts from that image; --root-size makes it larger.
--disk takes further ones: size=10G, image=NAME, pool=NAME, volume=NAME (an existing one),
  name=NAME, bus=virtio|scsi|sata, format=raw|qcow2, boot-order=N, serial=TEXT, read-only, discard.
--nic takes one of
  network=NAME  a virtual network, with sg=GROUP+GROUP, ip=ADDRESS, queues=N
  port=NAME     a port that stands by itself (lqctl port create)
  user          the hypervisor's own network: the guest reaches out, and forward=[tcp:|udp:][ADDRESS:]HOSTPORT-GUESTPORT,
                which may be repeated, leads in
  none          no interface at all
  and besides name=, mac=, model=virtio|e1000e. Without --nic the VM gets one interface in the project's network "default",
  so that it reaches the world, if a node that it may run on (by --node and --selector) has a network driver at that
  moment; else it gets none, and a line on stderr says so.
--kernel boots an image that holds a kernel, with --initrd and --cmdline.

Memory and sizes: see lqctl help quantities.`

func (s *session) vmCreate() *cobra.Command {
	var f vmFlags
	var noWait, dryRun bool
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Create a VM",
		Long:  createLong,
		Example: "  lqctl vm create web --image debian --cpus 2 --memory 1G --nic user,forward=tcp:8022-22 --ssh-key ~/.ssh/id_ed25519.pub\n" +
			"  lqctl vm create tiny --memory 128M --kernel vmlinuz --initrd initrd --cmdline console=ttyS0\n" +
			"  lqctl vm create db --image debian --disk size=20G,name=data --anti-affinity app=db --label app=db",
		Args: exactly("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			vm, err := f.build(args[0])
			if err != nil {
				return err
			}
			c, project, err := s.dial()
			if err != nil {
				return err
			}
			vm.Meta.ProjectId = project
			if len(f.nics) == 0 {
				if err := s.defaultNIC(cmd.Context(), c, &f, vm); err != nil {
					return err
				}
			}
			resp, err := c.VMs.CreateVM(cmd.Context(), connect.NewRequest(&computev1.CreateVMRequest{Vm: vm, DryRun: dryRun}))
			if err != nil {
				return err
			}
			made := resp.Msg.GetVm()
			if dryRun {
				s.say("%s is valid; nothing was created", args[0])
				if s.tabular() {
					return nil
				}
				return printOne(s, made, args[0], nil)
			}
			it := accepted{name: args[0], op: resp.Msg.GetOperation(), object: made, final: vmNow(c, made), done: "created"}
			return s.settle(cmd.Context(), c, []accepted{it}, noWait, false)
		},
	}
	f.register(s, cmd)
	addNoWait(cmd, &noWait)
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "let the controller check it, and create nothing")
	return cmd
}

// vmFlags are the flags that describe a VM.
type vmFlags struct {
	cpus                                                int32
	memory, cpuModel, machine, image, rootSize          string
	disks, nics, sshKeys                                []string
	kernel, initrd, cmdline, firmware                   string
	userData, networkConfig, hostname                   string
	labels, annotations, selector, affinity, anti, tols []string
	node, runPolicy, strategy, stopGrace                string
	noGuestAgent, noConsole, vnc, stopped, paused       bool
	protect, release                                    bool
}

func (f *vmFlags) register(s *session, cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.Int32Var(&f.cpus, "cpus", 1, "virtual CPUs")
	fl.StringVar(&f.memory, "memory", "512M", "memory")
	fl.StringVar(&f.cpuModel, "cpu-model", "", "CPU model: host-passthrough, host-model or a name; default: the driver's")
	fl.StringVar(&f.machine, "machine-type", "", "machine type, for example q35; default: the driver's")
	fl.StringVar(&f.image, "image", "", "image that the root disk starts from")
	fl.StringVar(&f.rootSize, "root-size", "", "size of the root disk; default: the image's")
	fl.StringArrayVar(&f.disks, "disk", nil, "further disk, for example size=10G,name=data; repeatable")
	fl.StringArrayVar(&f.nics, "nic", nil, "network interface, for example network=lan,sg=web+ssh, or user,forward=tcp:8022-22; repeatable; none = none; default: see above")
	fl.StringVar(&f.kernel, "kernel", "", "image with the kernel to boot")
	fl.StringVar(&f.initrd, "initrd", "", "image with the initrd")
	fl.StringVar(&f.cmdline, "cmdline", "", "kernel command line")
	fl.StringVar(&f.firmware, "firmware", "", "firmware: bios or uefi")
	fl.StringArrayVar(&f.sshKeys, "ssh-key", nil, "file with SSH public keys for the guest's default user; repeatable")
	fl.StringVar(&f.userData, "user-data", "", "file with cloud-init user-data")
	fl.StringVar(&f.networkConfig, "network-config", "", "file with a cloud-init network-config")
	fl.StringVar(&f.hostname, "hostname", "", "host name of the guest; default: the VM's name")
	fl.StringArrayVar(&f.labels, "label", nil, "label key=value; repeatable")
	fl.StringArrayVar(&f.annotations, "annotation", nil, "annotation key=value; repeatable")
	fl.StringVar(&f.node, "node", "", "run on this node only")
	fl.StringArrayVar(&f.selector, "selector", nil, "run only on nodes with this label key=value; repeatable")
	fl.StringArrayVar(&f.affinity, "affinity", nil, "run where VMs with these labels are: key=value[,...][,soft]; repeatable")
	fl.StringArrayVar(&f.anti, "anti-affinity", nil, "run where no VM with these labels is: key=value[,...][,soft]; repeatable")
	fl.StringArrayVar(&f.tols, "tolerate", nil, "taint to tolerate: key[=value]; repeatable")
	fl.StringVar(&f.strategy, "strategy", "", "choice among nodes: spread, pack or balance; default: the controller's")
	fl.StringVar(&f.runPolicy, "run-policy", "", "when the guest ends by itself, start it again: always, on-failure (default) or manual")
	fl.StringVar(&f.stopGrace, "stop-grace", "", "how long a stop waits for the guest; default: 60s")
	fl.BoolVar(&f.noGuestAgent, "no-guest-agent", false, "no channel for an agent in the guest")
	fl.BoolVar(&f.noConsole, "no-serial-console", false, "no serial console and no log of it")
	fl.BoolVar(&f.vnc, "vnc", false, "serve VNC on a unix socket of the node")
	fl.BoolVar(&f.stopped, "stopped", false, "do not start it")
	fl.BoolVar(&f.paused, "paused", false, "start it with its virtual CPUs halted")
	fl.BoolVar(&f.protect, "delete-protection", false, "refuse to delete it")
	fl.BoolVar(&f.release, "release-claim-when-stopped", false, "give its CPU and memory back while it is stopped")
	for _, flag := range []string{"image", "kernel", "initrd"} {
		complete(cmd, flag, s.imageNames)
	}
	complete(cmd, "node", s.nodeNames)
	complete(cmd, "run-policy", fixed("always", "on-failure", "manual"))
	complete(cmd, "strategy", fixed("spread", "pack", "balance"))
	complete(cmd, "firmware", fixed("bios", "uefi"))
}

// build makes the VM that the flags describe.
func (f *vmFlags) build(name string) (*computev1.VM, error) {
	memory, err := quantity.ParseBytes(f.memory)
	if err != nil {
		return nil, failure.Usage("--memory: %w", err).WithFix("write for example --memory 512M")
	}
	spec := &computev1.VMSpec{
		Cpu: &computev1.CPU{Vcpus: f.cpus, Model: f.cpuModel}, MemoryBytes: memory, MachineType: f.machine, Vnc: f.vnc,
		DeleteProtection: f.protect, ReleaseClaimWhenStopped: f.release,
	}
	if f.noGuestAgent {
		spec.GuestAgent = proto.Bool(false)
	}
	if f.noConsole {
		spec.SerialConsole = proto.Bool(false)
	}
	vm := &computev1.VM{Meta: &metav1.ObjectMeta{Name: name}, Spec: spec}
	if vm.Meta.Labels, err = pairs("--label", f.labels); err != nil {
		return nil, err
	}
	if vm.Meta.Annotations, err = pairs("--annotation", f.annotations); err != nil {
		return nil, err
	}
	for _, step := range []func(*computev1.VMSpec) error{f.power, f.boot, f.storage, f.network, f.cloudInit, f.placement} {
		if err := step(spec); err != nil {
			return nil, err
		}
	}
	return vm, nil
}

func (f *vmFlags) power(spec *computev1.VMSpec) error {
	switch {
	case f.stopped && f.paused:
		return failure.Usage("--stopped and --paused exclude each other").WithFix("give one of them")
	case f.stopped:
		spec.DesiredPower = computev1.PowerState_POWER_STATE_STOPPED
	case f.paused:
		spec.DesiredPower = computev1.PowerState_POWER_STATE_PAUSED
	}
	var err error
	if spec.RunPolicy, err = enumFlag[computev1.RunPolicy]("--run-policy", f.runPolicy, computev1.RunPolicy_name, "RUN_POLICY_"); err != nil {
		return err
	}
	if f.stopGrace != "" {
		d, err := parseDuration("--stop-grace", f.stopGrace)
		if err != nil {
			return err
		}
		spec.StopGrace = durationpb.New(d)
	}
	return nil
}

func (f *vmFlags) boot(spec *computev1.VMSpec) error {
	firmware, err := enumFlag[computev1.Firmware]("--firmware", f.firmware, computev1.Firmware_name, "FIRMWARE_")
	if err != nil {
		return err
	}
	if f.kernel == "" && (f.initrd != "" || f.cmdline != "") {
		return failure.Usage("--initrd and --cmdline need --kernel").WithFix("name the image that holds the kernel with --kernel")
	}
	if firmware != 0 || f.kernel != "" {
		spec.Boot = &computev1.Boot{Firmware: firmware}
	}
	if f.kernel != "" {
		spec.Boot.Kernel = &computev1.KernelBoot{KernelImage: f.kernel, InitrdImage: f.initrd, Cmdline: f.cmdline}
	}
	return nil
}

func (f *vmFlags) placement(spec *computev1.VMSpec) error {
	p := &computev1.Placement{Node: f.node}
	var err error
	if p.NodeSelector, err = pairs("--selector", f.selector); err != nil {
		return err
	}
	if p.Strategy, err = enumFlag[computev1.PlacementStrategy]("--strategy", f.strategy, computev1.PlacementStrategy_name, "PLACEMENT_STRATEGY_"); err != nil {
		return err
	}
	for _, rules := range []struct {
		flag  string
		items []string
		kind  computev1.AffinityType
	}{
		{"--affinity", f.affinity, computev1.AffinityType_AFFINITY_TYPE_AFFINITY},
		{"--anti-affinity", f.anti, computev1.AffinityType_AFFINITY_TYPE_ANTI_AFFINITY},
	} {
		for _, item := range rules.items {
			rule := &computev1.AffinityRule{Type: rules.kind}
			labels, soft := strings.CutSuffix(item, ",soft")
			rule.Preferred = soft
			if rule.VmLabels, err = pairs(rules.flag, strings.Split(labels, ",")); err != nil {
				return err
			}
			p.Affinity = append(p.Affinity, rule)
		}
	}
	for _, t := range f.tols {
		key, value, _ := strings.Cut(t, "=")
		p.Tolerations = append(p.Tolerations, &computev1.Toleration{Key: key, Value: value})
	}
	if !proto.Equal(p, &computev1.Placement{}) {
		spec.Placement = p
	}
	return nil
}

// enumFlag reads a flag whose words are the values of an enum; "" is the value 0.
func enumFlag[E ~int32](flag, word string, names map[int32]string, prefix string) (E, error) {
	if word == "" {
		return 0, nil
	}
	var known []string
	for i := int32(1); i < int32(len(names)); i++ {
		short := strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(names[i], prefix)), "_", "-")
		if short == strings.ToLower(word) {
			return E(i), nil
		}
		known = append(known, short)
	}
	return 0, unknownValue(flag, word, known)
}
