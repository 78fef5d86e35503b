// SPDX-License-Identifier: Apache-2.0
// rtfm_rt in C#, for Unity, .NET and Mono: rtfm_rt_c.h as classes, in which what is refused throws.
// Needs rtfm_rt.dll or librtfm_rt.so where the loader finds it (in Unity: Assets/Plugins/x86_64).
// A step takes no memory of the garbage collector's.
using System;
using System.Runtime.InteropServices;
using System.Text;

namespace RtfmRt {

  public enum Status { Ok, Error, Argument, Pose, Model, World, Device }

  public class RtfmException : Exception {
    public readonly Status Status;
    internal RtfmException(Status status, string message) : base(message) {
      Status = status;
    }
  }

  /// What a frame cost and how much of it was remembered; the fields of rtfm_receipt.
  [StructLayout(LayoutKind.Explicit, Size = 440)]
  public struct Receipt {
    [FieldOffset(0)]
    public long Id;
    [FieldOffset(152)]
    public double Latency;  // seconds
    [FieldOffset(160)]
    public double Support;  // 0 invented, 1 remembered
    [FieldOffset(168)]
    public int Steps;
    [FieldOffset(172)]
    public int Late;
    [FieldOffset(176)]
    public int Committed;
    [FieldOffset(180)]
    public int ContextCount;
  }

  /// As rtfm_default_options gives them; 0, or -1 where that says so, is the model's choice.
  [StructLayout(LayoutKind.Sequential)]
  public struct Options {
    public ulong Seed;
    public int Threads, Context, Steps, Sinks, Recent;
    public long MemoryBudget;   // bytes
    public double CommitBelow;  // -1
    public double Deadline;     // seconds
    public static Options Default {
      get { return Native.rtfm_default_options(); }
    }
  }

  /// Camera-to-world poses: row-major 4x4 of 16 doubles, camera axes x right, y down, z forward.
  public static class Poses {
    public enum Convention { OpenCv, OpenGl, OpenXr, RosOptical, RosBody, Unity }

    public static readonly double[] Identity = { 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1 };

    /// In Unity: of transform.position and transform.rotation, by Convention.Unity.
    public static void FromQuaternion(double[] position, double[] xyzw, Convention convention,
                                      double[] pose) {
      Native.Sized(position, 3, "position");
      Native.Sized(xyzw, 4, "xyzw");
      Native.Sized(pose, 16, "pose");
      Native.Check(
          Native.rtfm_pose_from_quaternion(position, xyzw, convention, pose, Native.Error));
    }
  }

  /// Weights; any number of sessions and threads share it.
  public sealed class Model : IDisposable {
    internal readonly ModelHandle Handle;
    public readonly int Images, Height, Width;  // of a frame
    public readonly string Device, Precision;

    public Model(string path, string device = "auto", string precision = "auto") {
      Handle = Native.Checked(Native.rtfm_model_open(Native.Utf8(path), Native.Utf8(device),
                                                     Native.Utf8(precision), Native.Error));
      Native.ModelInfo info = Native.rtfm_model_describe(Handle);
      Images = info.Images;
      Height = info.Height;
      Width = info.Width;
      Device = Marshal.PtrToStringAnsi(info.Device);
      Precision = Marshal.PtrToStringAnsi(info.Precision);
    }

    public int ImageBytes {
      get { return Height * Width * 3; }
    }
    public int FrameBytes {
      get { return Images * ImageBytes; }
    }

    public void Dispose() {
      Handle.Dispose();
    }
  }

  /// The newest pose of a camera, written by any thread; a step reads it as late as it can.
  public sealed class PoseSlot : IDisposable {
    internal readonly SlotHandle Handle;

    public PoseSlot(double[] pose) {
      Native.Sized(pose, 16, "pose");
      Handle = Native.Checked(Native.rtfm_slot_new(pose, Native.Error));
    }

    public void Write(double[] pose) {
      Native.Sized(pose, 16, "pose");
      Native.Check(Native.rtfm_slot_write(Handle, pose, Native.Error));
    }

    public void Dispose() {
      Handle.Dispose();
    }
  }

  /// One walk through one world; one thread at a time. Images and frames are rows of RGB bytes from
  /// the top down (those of a Texture2D go from the bottom up).
  public sealed class Session : IDisposable {
    readonly Model model;
    readonly SessionHandle handle;

    Session(Model model, SessionHandle handle) {
      this.model = model;
      this.handle = Native.Checked(handle);
    }

    public Session(Model model) : this(model, Options.Default) {}

    public Session(Model model, Options options)
        : this(model, Native.rtfm_session_new(model.Handle, ref options, Native.Error)) {}

    public static Session Load(string path, Model model) {
      return new Session(model, Native.rtfm_session_load(Native.Utf8(path), model.Handle,
                                                         IntPtr.Zero, Native.Error));
    }

    public void Save(string path) {
      Native.Check(Native.rtfm_session_save(handle, Native.Utf8(path), Native.Error));
    }

    /// A world to try things in, from here on its own.
    public Session Fork() {
      return new Session(model, Native.rtfm_session_fork(handle, Native.Error));
    }

    /// A real frame enters the world.
    public void Observe(byte[] image, double[] pose) {
      Native.Sized(image, model.ImageBytes, "image");
      Native.Sized(pose, 16, "pose");
      Native.Check(Native.rtfm_session_observe(handle, image, pose, IntPtr.Zero, Native.Error));
    }

    /// The frame seen from `pose`, into `frame`. deadline: seconds; 0 for the session's.
    public Receipt Step(double[] pose, byte[] frame, double deadline = 0) {
      Native.Sized(pose, 16, "pose");
      Native.Sized(frame, model.FrameBytes, "frame");
      var options = new Native.StepOptions { Deadline = deadline };
      Receipt receipt;
      Native.Check(
          Native.rtfm_session_step(handle, pose, ref options, frame, out receipt, Native.Error));
      return receipt;
    }

    public Receipt Step(PoseSlot slot, byte[] frame, double deadline = 0) {
      Native.Sized(frame, model.FrameBytes, "frame");
      var options = new Native.StepOptions { Deadline = deadline };
      Receipt receipt;
      Native.Check(Native.rtfm_session_step_slot(handle, slot.Handle, ref options, frame,
                                                 out receipt, Native.Error));
      return receipt;
    }

    /// What a step would show, without taking it.
    public Receipt Imagine(double[] pose, byte[] frame) {
      Native.Sized(pose, 16, "pose");
      Native.Sized(frame, model.FrameBytes, "frame");
      Receipt receipt;
      Native.Check(
          Native.rtfm_session_imagine(handle, pose, IntPtr.Zero, frame, out receipt, Native.Error));
      return receipt;
    }

    public void Dispose() {
      handle.Dispose();
    }
  }

  abstract class Handle : SafeHandle {
    protected Handle() : base(IntPtr.Zero, true) {}
    public override bool IsInvalid {
      get { return handle == IntPtr.Zero; }
    }
  }
  sealed class ModelHandle : Handle {
    protected override bool ReleaseHandle() {
      Native.rtfm_model_close(handle);
      return true;
    }
  }
  sealed class SessionHandle : Handle {
    protected override bool ReleaseHandle() {
      Native.rtfm_session_free(handle);
      return true;
    }
  }
  sealed class SlotHandle : Handle {
    protected override bool ReleaseHandle() {
      Native.rtfm_slot_free(handle);
      return true;
    }
  }

  static class Native {
    [StructLayout(LayoutKind.Sequential)]
    internal struct ModelInfo {
      public IntPtr Name, Device, Precision, Manifest;
      public int Images, Height, Width, Actions;
      public double Fx, Fy;
      public long Parameters;
    }

    [StructLayout(LayoutKind.Sequential)]
    internal struct StepOptions {
      public double Deadline, Fx, Fy;
    }

    [ThreadStatic]
    static byte[] error;  // an rtfm_error: a status and 508 bytes of text
    internal static byte[] Error {
      get { return error ?? (error = new byte[512]); }
    }

    internal static byte[] Utf8(string text) {
      return Encoding.UTF8.GetBytes(text + "\0");
    }

    internal static void Check(Status status) {
      if (status == Status.Ok)
        return;
      int end = Array.IndexOf(error, (byte)0, 4);
      throw new RtfmException(status, Encoding.UTF8.GetString(error, 4, end - 4));
    }

    internal static T Checked<T>(T handle)
        where T : Handle {
      if (handle.IsInvalid)
        Check((Status)BitConverter.ToInt32(error, 0));
      return handle;
    }

    internal static void Sized(Array values, int count, string name) {
      if (values != null && values.Length == count)
        return;
      throw new RtfmException(Status.Argument, name + ": expected " + count + " numbers, got " +
                                                   (values == null ? "none" : "" + values.Length));
    }

    const string Library = "rtfm_rt";

    [DllImport(Library)]
    internal static extern Status rtfm_pose_from_quaternion(double[] position, double[] xyzw,
                                                            Poses.Convention convention,
                                                            [Out] double[] pose,
                                                            [Out] byte[] error);
    [DllImport(Library)]
    internal static extern ModelHandle rtfm_model_open(byte[] path, byte[] device, byte[] precision,
                                                       [Out] byte[] error);
    [DllImport(Library)]
    internal static extern void rtfm_model_close(IntPtr model);
    [DllImport(Library)]
    internal static extern ModelInfo rtfm_model_describe(ModelHandle model);
    [DllImport(Library)]
    internal static extern Options rtfm_default_options();
    [DllImport(Library)]
    internal static extern SessionHandle rtfm_session_new(ModelHandle model, ref Options options,
                                                          [Out] byte[] error);
    [DllImport(Library)]
    internal static extern void rtfm_session_free(IntPtr session);
    [DllImport(Library)]
    internal static extern SessionHandle rtfm_session_fork(SessionHandle session,
                                                           [Out] byte[] error);
    [DllImport(Library)]
    internal static extern Status rtfm_session_save(SessionHandle session, byte[] path,
                                                    [Out] byte[] error);
    [DllImport(Library)]
    internal static extern SessionHandle rtfm_session_load(byte[] path, ModelHandle model,
                                                           IntPtr options, [Out] byte[] error);
    [DllImport(Library)]
    internal static extern Status rtfm_session_observe(SessionHandle session, byte[] image,
                                                       double[] pose, IntPtr intrinsics,
                                                       [Out] byte[] error);
    [DllImport(Library)]
    internal static extern Status rtfm_session_step(SessionHandle session, double[] pose,
                                                    ref StepOptions options, [Out] byte[] frame,
                                                    out Receipt receipt, [Out] byte[] error);
    [DllImport(Library)]
    internal static extern Status rtfm_session_imagine(SessionHandle session, double[] pose,
                                                       IntPtr intrinsics, [Out] byte[] frame,
                                                       out Receipt receipt, [Out] byte[] error);
    [DllImport(Library)]
    internal static extern Status rtfm_session_step_slot(SessionHandle session, SlotHandle slot,
                                                         ref StepOptions options,
                                                         [Out] byte[] frame, out Receipt receipt,
                                                         [Out] byte[] error);
    [DllImport(Library)]
    internal static extern SlotHandle rtfm_slot_new(double[] pose, [Out] byte[] error);
    [DllImport(Library)]
    internal static extern void rtfm_slot_free(IntPtr slot);
    [DllImport(Library)]
    internal static extern Status rtfm_slot_write(SlotHandle slot, double[] pose,
                                                  [Out] byte[] error);
  }

}  // namespace RtfmRt
