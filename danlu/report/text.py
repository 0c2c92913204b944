"""Every string of the report, in both languages, side by side.

The page holds both and shows one: ``<span class="en">…</span><span class="zh">…</span>``. Placeholders take values
that are escaped when they are put in.
"""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

__all__ = ["LANGUAGES", "TEXT", "both", "both_svg", "plain"]

LANGUAGES = ("en", "zh")

# key -> (English, 简体中文)
TEXT: dict[str, tuple[str, str]] = {
    # The page
    "report": ("Run report", "运行报告"),
    "contents": ("Contents", "目录"),
    "language": ("Language", "语言"),
    "skip": ("Skip to the results", "跳到结果"),
    "sort_hint": ("Select a column heading to sort.", "点击列标题可排序。"),
    "not_run": ("Not run.", "未运行。"),
    "not_run_hint": ("<code>{command}</code> adds this section.", "运行 <code>{command}</code> 后会有这一节。"),
    "and_more": ("and {n} more", "另有 {n} 项"),
    "made_by": (
        "Made by danlu {version} from the records of this run alone.",
        "由 danlu {version} 仅凭本次运行的记录生成。",
    ),
    # Header
    "title": ("{model} on {data}", "{data} 上的 {model}"),
    "title_bare": ("Run", "运行"),
    "lead_test": (
        "{correct} of {n} test pictures are classified correctly: {value} (95 % interval {range}).",
        "{n} 张测试图片中有 {correct} 张分类正确：准确率 {value}（95 % 区间 {range}）。",
    ),
    "lead_none": ("This run has no test result yet.", "本次运行还没有测试结果。"),
    "lead_train": (
        "Trained for {epochs} epochs in {time}; measured with the weights of epoch {best}, the best on validation.",
        "训练 {epochs} 轮，用时 {time}；以下测量所用的是验证集上最好的第 {best} 轮权重。",
    ),
    "lead_train_all": (
        "Trained for {epochs} epochs in {time} on the validation pictures too: the last weights, none selected.",
        "训练 {epochs} 轮，用时 {time}，验证图片也参与了训练：所用为最后的权重，未作选择。",
    ),
    "trained_on_all": (
        "The validation pictures were trained on too, so no figure of validation stands.",
        "验证图片也参与了训练，因此不列验证结果。",
    ),
    "accuracy_test": ("Test accuracy", "测试准确率"),
    "interval": ("95 % interval {range}", "95 % 区间 {range}"),
    "size": ("Size", "模型大小"),
    "latency_1": ("Latency, one picture", "单张图片延迟"),
    "faster": ("{ratio}× as fast as PyTorch eager", "速度为 PyTorch eager 的 {ratio} 倍"),
    "size_of": ("{form} file", "{form} 文件"),
    "size_fp32": ("FP32 file {size}", "FP32 文件 {size}"),
    "of_size": ("{ratio}× the size", "大小 {ratio} 倍"),
    "as_fast": ("{ratio}× as fast", "速度 {ratio} 倍"),
    "by_points": ("{points} points", "{points} 个百分点"),
    "parity": ("Parity", "一致性"),
    "total_time": ("Total time", "总用时"),
    "stage_times": ("Time of each stage", "各阶段用时"),
    "holds": ("holds", "通过"),
    "fails": ("fails", "未通过"),
    "delivered": ("delivered", "已交付"),
    "not_delivered": ("withheld", "未交付"),
    "none_yet": ("not run", "未运行"),
    "repeat": ("To repeat this run", "重现本次运行"),
    "copy": ("Copy", "复制"),
    "copied": ("Copied", "已复制"),
    # Stages of the main job
    "stage_data": ("data", "数据"),
    "stage_train": ("training", "训练"),
    "stage_evaluate": ("evaluation", "评估"),
    "stage_analyze": ("analysis", "分析"),
    "stage_export": ("export and parity", "导出与一致性"),
    "stage_benchmark": ("benchmark", "性能测试"),
    "stage_report": ("report", "报告"),
    # Data
    "data": ("Data", "数据"),
    "data_set": ("Data set", "数据集"),
    "source": ("Source", "来源"),
    "classes": ("Classes", "类别数"),
    "picture_size": ("Picture size", "图片尺寸"),
    "picture_varied": ("{size} (median; sizes differ)", "{size}（中位数；尺寸不一）"),
    "splits": ("Splits", "划分"),
    "split_of": (
        "{train} train · {validation} validation · {test} test",
        "训练 {train} · 验证 {validation} · 测试 {test}",
    ),
    "split_given": ("test split given by the data set", "测试集由数据集给定"),
    "split_seeded": ("stratified split, seed {seed}", "分层划分，随机种子 {seed}"),
    "channel_mean": ("Channel mean", "通道均值"),
    "channel_std": ("Channel standard deviation", "通道标准差"),
    "licence": ("Licence", "许可"),
    "citation": ("Citation", "引用"),
    "hash": ("SHA-256", "SHA-256"),
    "unknown": ("not stated", "未说明"),
    "train": ("train", "训练"),
    "validation": ("validation", "验证"),
    "test": ("test", "测试"),
    "class_balance": ("Pictures in each class, by split.", "各类别的图片数，按划分着色。"),
    "class_profile": (
        "Pictures in each of {n} classes, most frequent first: from {most} ({first}) to {least} ({last}).",
        "{n} 个类别的图片数，由多到少：最多 {most} 张（{first}），最少 {least} 张（{last}）。",
    ),
    "no_problems": ("No picture was left out.", "没有图片被剔除。"),
    "some_warnings": ("{n} warnings about the data.", "数据有 {n} 条警告。"),
    "some_problems": (
        "{n} pictures could not be used and were left out.",
        "有 {n} 张图片无法使用，已剔除。",
    ),
    "reason": ("Reason", "原因"),
    "file": ("File", "文件"),
    "no_duplicates": ("No picture stands in two splits.", "没有图片同时出现在两个划分中。"),
    "some_duplicates": (
        "{n} pairs of equal pictures stand in different splits; the test figures may flatter.",
        "有 {n} 对相同的图片分属不同划分；测试结果可能偏乐观。",
    ),
    "augmented": (
        "One augmented training batch, as the network receives it.",
        "一个增强后的训练批次，即网络实际看到的图片。",
    ),
    # Training
    "training": ("Training", "训练"),
    "epoch": ("Epoch", "轮次"),
    "epochs": ("Epochs", "轮数"),
    "steps": ("Steps", "步数"),
    "best_epoch": ("Best epoch", "最佳轮次"),
    "best": ("best", "最佳"),
    "train_time": ("Training time", "训练用时"),
    "speed": ("Speed", "速度"),
    "pictures_per_second": ("{n} pictures/s", "{n} 张/秒"),
    "resumed": ("Resumed", "续训次数"),
    "times": ("{n} times", "{n} 次"),
    "loss_curve": ("Loss of each epoch; the faint line is the loss of single steps.", "每轮的损失；浅色线为单步损失。"),
    "accuracy_curve": ("Accuracy of each epoch.", "每轮的准确率。"),
    "rate_curve": ("Learning rate.", "学习率。"),
    "speed_curve": ("Training speed in pictures per second.", "训练速度（张/秒）。"),
    "step": ("step", "单步"),
    "steps_head": ("Step", "步"),
    "rate": ("learning rate", "学习率"),
    "speed_series": ("pictures/s", "张/秒"),
    "log_scale": ("Logarithmic scale.", "对数刻度。"),
    "curve_help": (
        "Point at a chart, or focus it and use ← and →, to read values.",
        "将指针移到图上，或选中图后按 ← →，可读取数值。",
    ),
    "unfinished": (
        "This training has no closing record: it is running, or was stopped; the log goes as far as shown.",
        "训练没有结束记录：正在进行或已被中断；日志到图示为止。",
    ),
    "event": ("Event", "事件"),
    "events": ("Events of the run.", "运行中的事件。"),
    "event_diverged": ("the loss or the weights were no longer finite", "损失或权重不再是有限值"),
    "event_resume": ("resumed", "续训"),
    "event_stop": ("stopped by a signal", "因信号停止"),
    "event_out_of_memory": ("memory ran out", "内存不足"),
    "event_parts": ("a batch is computed in {n} parts from now on", "此后每个批次分 {n} 部分计算"),
    "event_left_out": ("steps left out", "跳过的步"),
    "details": ("Details", "详情"),
    "alert_diverged": (
        "Training was stopped because it diverged: {reason}",
        "训练发散，已停止：{reason}",
    ),
    "alert_fp32": (
        "The FP32 export is out of tolerance and no artifact was delivered. First stage that differs: {stage}.",
        "FP32 导出超出容差，未交付任何模型文件。首个出现差异的阶段：{stage}。",
    ),
    "no_log": ("The log holds no finished epoch.", "日志中没有完成的轮次。"),
    # Evaluation
    "evaluation": ("Evaluation", "评估"),
    "split": ("Split", "划分"),
    "accuracy": ("Accuracy", "准确率"),
    "cross_entropy": ("Cross-entropy", "交叉熵"),
    "pictures": ("Pictures", "图片数"),
    "interval_head": ("95 % interval", "95 % 区间"),
    "results_caption": (
        "The test split is the one reported; on the validation split the choices were made.",
        "测试集用于报告结果；各种选择都在验证集上作出。",
    ),
    "several_caption": (
        "A picture may have several labels; it counts as correct when all of its classes are decided right.",
        "一张图片可有多个标签；所有类别都判断正确才算正确。",
    ),
    "figure": ("Figure", "指标"),
    "value": ("Value", "数值"),
    "mean_average_precision": ("Mean average precision", "平均精度均值（mAP）"),
    "f1_micro": ("F1 over all decisions", "全部判断的 F1"),
    "f1_macro": ("Mean of the classes' F1", "各类 F1 的平均"),
    "confusion": (
        "Confusion matrix. Rows are true classes, columns predictions; colour is the share of the row.",
        "混淆矩阵。行为真实类别，列为预测类别；颜色深浅为占该行的比例。",
    ),
    "confusion_small": (
        "Confusion matrix of {n} classes, in the order of the table below; marks off the diagonal are confusions.",
        "{n} 个类别的混淆矩阵，顺序同下表；对角线以外的标记是误判。",
    ),
    "pairs": ("Most frequent confusions.", "最常见的误判。"),
    "no_confusions": ("No picture was confused.", "没有误判。"),
    "true": ("True", "真实"),
    "predicted": ("Predicted", "预测"),
    "share_of_true": ("Share of the true class", "占真实类别"),
    "correct": ("correct", "正确"),
    "confused": ("confused", "误判"),
    "per_class": ("Each class.", "各类别。"),
    "class": ("Class", "类别"),
    "precision": ("Precision", "精确率"),
    "recall": ("Recall", "召回率"),
    "f1": ("F1", "F1"),
    "support": ("True", "真实数"),
    "predicted_count": ("Predicted", "预测数"),
    "average_precision": ("Average precision", "平均精度（AP）"),
    "no_pictures": ("no pictures", "测试集中无图片"),
    "never_predicted": ("Classes that were never predicted: {n}.", "从未被预测的类别数：{n}。"),
    "worst": (
        "The pictures with the largest loss: what they are, what was predicted, and with what probability.",
        "损失最大的图片：真实类别、预测类别及预测概率。",
    ),
    "worst_loss": (
        "The pictures with the largest loss: their labels, what was decided, and the loss.",
        "损失最大的图片：真实标签、判断结果及损失。",
    ),
    "loss_of": ("loss {value}", "损失 {value}"),
    "missing_picture": ("picture missing", "缺少图片"),
    # Analysis
    "analysis": ("Model", "模型"),
    "parameters": ("Parameters", "参数量"),
    "macs": ("Multiply-adds", "乘加次数"),
    "weight_bytes": ("Weights", "权重"),
    "activation_bytes": ("Activations", "激活值"),
    "peak_activation_bytes": ("Peak activations", "峰值激活"),
    "forward_time": ("One forward", "单次前向"),
    "whole_network": ("(the network itself)", "（网络本身）"),
    "input": ("Input", "输入"),
    "layers": ("Layers", "各层"),
    "layers_caption": (
        "Each layer: output shape, parameters, multiply-adds and measured time for one picture.",
        "每一层：输出形状、参数量、乘加次数，以及单张图片的实测时间。",
    ),
    "layer": ("Layer", "层"),
    "type": ("Type", "类型"),
    "output": ("Output", "输出"),
    "time": ("Time", "时间"),
    # Deployment
    "deployment": ("Deployment", "部署"),
    "deployment_caption": (
        "One model in three forms. Ratios compare with PyTorch eager; latency is the median.",
        "同一模型的三种形式。比值以 PyTorch eager 为基准；延迟取中位数。",
    ),
    "form": ("Form", "形式"),
    "batch_n": ("Batch {n}", "批量 {n}"),
    "test_accuracy": ("Test accuracy", "测试准确率"),
    "pytorch": ("PyTorch eager", "PyTorch eager"),
    "onnx_fp32": ("ONNX FP32", "ONNX FP32"),
    "onnx_int8": ("ONNX INT8", "ONNX INT8"),
    "int8_reason": ("INT8: {reason}", "INT8 说明：{reason}"),
    "export_details": ("Details of the export", "导出详情"),
    "int8_left_out": ("INT8 was not asked for.", "未要求 INT8。"),
    # Parity
    "parity_section": ("Parity proof", "一致性证明"),
    "parity_caption": (
        "Each exported model against PyTorch on the same pictures. Validation decides, test only reports.",
        "导出模型与 PyTorch 在同样图片上的比较。以验证集判定，测试集仅供报告。",
    ),
    "largest_difference": ("Largest logit difference", "最大 logit 差"),
    "relative_difference": ("Relative", "相对值"),
    "flips": ("Flips", "预测翻转"),
    "ties": ("Ties", "并列"),
    "accuracy_before": ("Accuracy, PyTorch", "PyTorch 准确率"),
    "accuracy_after": ("Accuracy, exported", "导出模型准确率"),
    "points": ("Change, points", "变化（百分点）"),
    "verdict": ("Verdict", "判定"),
    "stages": (
        "Relative difference at each stage's end, FP32, against the tolerance (dashed); pixels are held to levels.",
        "FP32 各阶段末端的相对差；虚线为容差。网络之前的像素处理另按灰度级数判定。",
    ),
    "first_bad_stage": ("The first stage out of tolerance is {stage}.", "第一个超出容差的阶段是 {stage}。"),
    "all_stages_good": ("Every stage is within tolerance.", "各阶段均在容差之内。"),
    "busy_machine": ("on a busy machine", "测量时机器繁忙"),
    "benchmark_busy": (
        "Other work ran on this machine meanwhile: the times are inflated, the ratios hold better.",
        "测量期间机器上有其他任务：耗时偏大，倍数更可信。",
    ),
    "bad_layers": ("Layers that lose most by INT8.", "INT8 量化误差最大的层。"),
    "error": ("Error", "误差"),
    "not_finite": ("not finite", "非有限值"),
    "never": ("never predicted", "从未被预测"),
    "resize_n": ("Pictures", "图片数"),
    "resize_max_probability_difference": ("Largest probability difference", "最大概率差"),
    "resize_flips": ("Flips", "预测翻转"),
    "in_graph_resize": ("Resizing inside the graph", "图内缩放"),
    # Benchmark
    "benchmark": ("Benchmark", "性能测试"),
    "benchmark_settings": (
        "Threads: {threads}. After {warmup} calls of warm-up, {repeats} repeats, the runtimes taking turns.",
        "线程数：{threads}。预热 {warmup} 次调用后，各运行时交替重复 {repeats} 次。",
    ),
    "benchmark_calls": ("A repeat is {n} calls in a row.", "每次重复连续调用 {n} 次。"),
    "benchmark_caption": (
        "Time of one batch in milliseconds; p90 from 10 calls on, p99 from 100.",
        "每个批次的时间（毫秒）；至少 10 次调用才给出 p90，至少 100 次才给出 p99。",
    ),
    "calls": ("Calls", "调用次数"),
    "runtime": ("Runtime", "运行时"),
    "precision_mode": ("Precision", "精度"),
    "batch": ("Batch", "批量"),
    "median": ("Median", "中位数"),
    "latency_chart": (
        "Batch of {n}. Bar: median; thick line: to the 90th percentile; tick: the 99th.",
        "批量 {n}。条形：中位数；粗线：至第 90 百分位；竖线：第 99 百分位。",
    ),
    "ratio_caption": (
        "How many times as fast; the ratio is taken within each repeat, its interval over repeats.",
        "速度倍数；比值取自每次重复内部，区间为各次重复之间。",
    ),
    "compared": ("Compared", "比较"),
    "than": ("{a} against {b}", "{a} 对比 {b}"),
    "speedup": ("Times as fast", "速度倍数"),
    # Environment, settings, records
    "environment": ("Environment", "环境"),
    "computed_on": ("Computed on", "计算设备"),
    "processor": ("Processor", "处理器"),
    "cores": ("Usable cores", "可用核心"),
    "features": ("Instruction sets", "指令集"),
    "system": ("System", "系统"),
    "threads": ("Threads", "线程"),
    "packages": ("Packages", "软件包"),
    "version": ("Version", "版本"),
    "settings": ("Settings", "设置"),
    "settings_lead": (
        "What was asked for, what took effect, and why where it was chosen by rule or by measurement.",
        "要求的设置、实际生效的设置，以及按规则或实测选定时的原因。",
    ),
    "setting": ("Setting", "设置项"),
    "requested": ("Requested", "要求"),
    "effective": ("In effect", "生效"),
    "overridden": ("set by the user", "用户指定"),
    "why": ("Why", "原因"),
    "all_settings": ("All settings in effect", "全部生效设置"),
    "nothing_requested": (
        "Nothing was set by hand; every value is the default or was measured.",
        "没有手动设置；所有值为默认或实测所得。",
    ),
    "records": ("Records", "记录"),
    "records_lead": (
        "The files this page was made from, and what they vouch for.",
        "本页所依据的文件，以及它们所证明的内容。",
    ),
    "data_hash": ("data", "数据"),
}


def _spans(tag: str, key: str, values: dict[str, Any]) -> Markup:
    english, chinese = (Markup(text).format(**values) for text in TEXT[key])
    if english == chinese:
        return english
    return Markup('<{0} class="en" lang="en">{1}</{0}><{0} class="zh" lang="zh-Hans">{2}</{0}>').format(
        Markup(tag), english, chinese
    )


def both(key: str, **values: Any) -> Markup:
    """Return the text of ``key`` in both languages as two spans, of which the page shows one."""
    return _spans("span", key, values)


def both_svg(key: str, **values: Any) -> Markup:
    """Return the text of ``key`` in both languages for use inside an SVG ``<text>``."""
    return _spans("tspan", key, values)


def plain(key: str, language: str) -> str:
    """Return the text of ``key`` in one language, for attributes; a script switches them."""
    return TEXT[key][LANGUAGES.index(language)]
